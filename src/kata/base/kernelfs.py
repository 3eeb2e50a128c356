"""File systems that are doors to the kernel and not places for files.

Writing to one of the host's is giving the host's kernel an order, so none is ever shared with a
guest (statfs(2) and include/uapi/linux/magic.h have the numbers).
"""

from __future__ import annotations

import os

from kata.base import syscalls
from kata.base.mountinfo import list_mounts

_BY_MAGIC = {
    0x00009FA0: "proc",
    0x62656572: "sysfs",
    0x0027E0EB: "cgroup",
    0x63677270: "cgroup2",
    0x64626720: "debugfs",
    0x74726163: "tracefs",
    0x73636673: "securityfs",
    0xCAFE4A11: "bpf",
    0x00001CD1: "devpts",
    0x19800202: "mqueue",
    0x6165676C: "pstore",
    0xDE5E81E4: "efivarfs",
    0x62656570: "configfs",
    0x958458F6: "hugetlbfs",
    0x42494E4D: "binfmt_misc",
    0x65735543: "fusectl",
    0x6E667364: "nfsd",
    0x67596969: "rpc_pipefs",
    0x07655821: "resctrl",
    0x6E736673: "nsfs",
    0x5A3C69F0: "apparmorfs",
    0xF97CFF8C: "selinuxfs",
    0x43415D53: "smackfs",
    0xABBA1974: "xenfs",
    0x6C6F6F70: "binder",
}
# What is a tmpfs, or a ramfs, by its number.
_DEVTMPFS = "devtmpfs"
_MEMORY_MAGICS = (0x01021994, 0x858458F6)
_MAGIC_BITS = 0xFFFFFFFF

# As mounts are listed (mountinfo).
NAMES = frozenset({*_BY_MAGIC.values(), _DEVTMPFS})


def find_type(path: str) -> str:
    """Return what file system of a kernel's own a path lies on; empty for others.

    Asks the file system itself, since names of mounts can be covered.  Raises OSError.
    """
    magic = syscalls.statfs_type(path) & _MAGIC_BITS
    if magic not in _MEMORY_MAGICS:
        return _BY_MAGIC.get(magic, "")
    number = os.stat(path).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    # There is one of it, which is mounted at /dev of the first process if nowhere else.
    for table in ("/proc/thread-self/mountinfo", "/proc/1/mountinfo"):
        if any(
            mount.device == device and mount.fstype == _DEVTMPFS for mount in list_mounts(table)
        ):
            return _DEVTMPFS
    return ""
