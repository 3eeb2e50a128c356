"""The guest's own file systems, and its root."""

from __future__ import annotations

import errno
import os

from kata.base import syscalls
from kata.base.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID
from kata.guest import files

_SAFE = MS_NOSUID | MS_NODEV | MS_NOEXEC

# What the channel to the host needs.
FIRST = (
    ("proc", "/proc", "proc", _SAFE, ""),
    ("sysfs", "/sys", "sysfs", _SAFE, ""),
    ("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755"),
)
# What containers need.
LATER = (
    ("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620"),
    ("tmpfs", "/dev/shm", "tmpfs", _SAFE, "mode=1777"),
    ("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"),
    ("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", _SAFE, "nsdelegate"),
)
# What a kernel may lack.
OPTIONAL = (("mqueue", "/dev/mqueue", "mqueue", _SAFE, ""),)
LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("pts/ptmx", "/dev/ptmx"),
)
CGROUP = "/sys/fs/cgroup"
_NEW_ROOT = "/mnt"


def leave_initramfs() -> None:
    """Make ``/`` a mount that pivot_root(2) can leave; the kernel refuses it for the initramfs.

    A root that is read-only is an image's, and such a mount already.  To be called before anything
    else is mounted.  Raises OSError.
    """
    if os.statvfs("/").f_flag & os.ST_RDONLY:
        return
    os.makedirs(_NEW_ROOT, exist_ok=True)
    syscalls.mount("/", _NEW_ROOT, "", syscalls.MS_BIND | syscalls.MS_REC)
    os.chdir(_NEW_ROOT)
    syscalls.mount(".", "/", "", syscalls.MS_MOVE)
    os.chroot(".")
    os.chdir("/")


def mount_first() -> None:
    """Mount what is needed to reach the host.  Raises OSError."""
    _mount_all(FIRST)


def mount_later() -> None:
    """Mount the rest, and hand all cgroup controllers down.  Raises OSError."""
    _mount_all(LATER)
    for entry in OPTIONAL:
        try:
            _mount_all((entry,))
        except OSError:
            os.rmdir(entry[1])
    for target, path in LINKS:
        files.remove(path)
        os.symlink(target, path)
    _enable_controllers()


def protect_root() -> None:
    """Make the image unchangeable, for whoever gets at the agent's program by /proc/PID/exe too.

    The agent's own files lie on the file systems above (CVE-2019-5736).  Raises OSError.
    """
    syscalls.mount("", "/", "", syscalls.MS_REMOUNT | syscalls.MS_RDONLY)


def _mount_all(table: tuple[tuple[str, str, str, int, str], ...]) -> None:
    for source, target, fstype, flags, data in table:
        os.makedirs(target, exist_ok=True)
        try:
            syscalls.mount(source, target, fstype, flags, data)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            # The kernel has mounted /dev in an image's root itself (CONFIG_DEVTMPFS_MOUNT).
            syscalls.mount("", target, "", syscalls.MS_REMOUNT | syscalls.MS_BIND | flags)


def _enable_controllers() -> None:
    controllers = files.read(f"{CGROUP}/cgroup.controllers").split()
    for name in controllers:
        # One by one: a controller that cannot be handed down does not keep the others back.
        try:
            files.control(f"{CGROUP}/cgroup.subtree_control", f"+{name}")
        except OSError:
            pass
