"""What a container gets that asks for one of the host kernel's file systems: the guest's own.

Which it is, `base/kernelfs.py` tells by the file system and not by the path.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from typing import Any

from kata.base.errors import Code, KataError
from kata.host.sandbox.sources import Source

# Those that the guest's kernel has: what is mounted instead of the whole.
_OWN = {
    "proc": "proc",
    "sysfs": "sysfs",
    "cgroup": "cgroup",
    "cgroup2": "cgroup",
    "mqueue": "mqueue",
    "devpts": "devpts",
    "debugfs": "debugfs",
    "tracefs": "tracefs",
    "securityfs": "securityfs",
    "bpf": "bpf",
    "configfs": "configfs",
    "pstore": "pstore",
    # Its nodes are made as in every container; those of the agent's are not for others to change.
    "devtmpfs": "tmpfs",
}
_OPTIONS = {
    "devpts": ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
    "devtmpfs": ("nosuid", "noexec", "mode=755", "size=65536k"),
}
_SAFE = ("nosuid", "noexec", "nodev")
# Where the guest has the same, of which a part can be had.
_PLACES = {"proc": "/proc", "sysfs": "/sys"}
_DEV = "/dev"


def plan_kernels_own(
    mount: dict[str, Any], source: Source, others: Sequence[dict[str, Any]]
) -> bool:
    """Rewrite a bind mount of the kernel's in place; ``others`` are all mounts of the container.

    Returns whether it is to be left out, as a part of another one.  Raises INVALID_ARGUMENT for
    what cannot be the guest's.
    """
    if source.kernel.startswith("cgroup") and _is_part_of_cgroups(mount, others):
        return True
    options = mount.get("options") or []
    access = [option for option in options if option in ("ro", "rw")]
    if "rro" in options:
        access = ["ro"]
    if source.kernel_path == "/" and _is_possible(mount["destination"], source.kernel):
        mount["type"] = mount["source"] = _OWN[source.kernel]
        mount["options"] = [*_OPTIONS.get(source.kernel, _SAFE), *access]
        return False
    if source.kernel in _PLACES and not _is_of_a_process(source):
        mount["type"] = "bind"
        mount["source"] = _PLACES[source.kernel] + source.kernel_path
        mount["options"] = ["bind", *_SAFE, *access]
        return False
    raise KataError(
        f"mount {mount['destination']}: {mount.get('source')} is on the host's {source.kernel},"
        " which a virtual machine cannot be given",
        Code.INVALID_ARGUMENT,
        "leave the volume out, or run the container with another runtime",
    )


def _is_possible(destination: str, kind: str) -> bool:
    if kind == "devtmpfs":
        return posixpath.normpath(destination) == _DEV
    return kind in _OWN


def _is_of_a_process(source: Source) -> bool:
    """Return whether it is a process's of the host, of which the guest knows nothing."""
    return source.kernel == "proc" and source.kernel_path.split("/")[1].isdigit()


def _is_part_of_cgroups(mount: dict[str, Any], others: Sequence[dict[str, Any]]) -> bool:
    """Return whether the container's cgroups are mounted above, as they are all that there is.

    Engines mount the hierarchies of version 1 one by one below /sys/fs/cgroup, and systemd's once
    more so that it can be written to; the guest has one hierarchy.
    """
    place = posixpath.normpath(mount["destination"])
    above = [
        other
        for other in others
        if other.get("type") in ("cgroup", "cgroup2")
        and other is not mount
        and f"{place}/".startswith(posixpath.normpath(other["destination"]) + "/")
    ]
    if above and "ro" not in (mount.get("options") or []):
        options = above[-1].get("options") or []
        above[-1]["options"] = [option for option in options if option != "ro"]
    return bool(above)
