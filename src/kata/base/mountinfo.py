"""What is mounted where (proc(5), mountinfo), and mount options as fstab spells them."""

from __future__ import annotations

from kata.base import syscalls

_FLAGS = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "sync": syscalls.MS_SYNCHRONOUS,
    "remount": syscalls.MS_REMOUNT,
    "mand": syscalls.MS_MANDLOCK,
    "dirsync": syscalls.MS_DIRSYNC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "bind": syscalls.MS_BIND,
    "rbind": syscalls.MS_BIND | syscalls.MS_REC,
    "relatime": syscalls.MS_RELATIME,
    "strictatime": syscalls.MS_STRICTATIME,
}
_CLEARED = {
    "rw": syscalls.MS_RDONLY,
    "suid": syscalls.MS_NOSUID,
    "dev": syscalls.MS_NODEV,
    "exec": syscalls.MS_NOEXEC,
    "async": syscalls.MS_SYNCHRONOUS,
    "atime": syscalls.MS_NOATIME,
    "diratime": syscalls.MS_NODIRATIME,
    "norelatime": syscalls.MS_RELATIME,
    "nostrictatime": syscalls.MS_STRICTATIME,
    "nomand": syscalls.MS_MANDLOCK,
    "defaults": 0,
}
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "slave": syscalls.MS_SLAVE,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "shared": syscalls.MS_SHARED,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
}


class MountOptions:
    """Options as mount(2) wants them: flags, propagation (a second call), and the rest as data."""

    __slots__ = ("data", "flags", "propagation")

    def __init__(self, flags: int, propagation: int, data: str) -> None:
        self.flags = flags
        self.propagation = propagation
        self.data = data


def parse_options(options: list[str] | tuple[str, ...]) -> MountOptions:
    """Sort fstab-style options into flags, propagation and file system data; later ones win."""
    flags = propagation = 0
    data = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option in _CLEARED:
            flags &= ~_CLEARED[option]
        elif option in _PROPAGATION:
            propagation |= _PROPAGATION[option]
        elif option:
            data.append(option)
    return MountOptions(flags, propagation, ",".join(data))


def list_mount_points(path: str = "/proc/self/mountinfo") -> list[str]:
    """Return every mount point of this mount namespace, in the order they were mounted."""
    with open(path, "rb") as file:
        return [_unescape(line.split(b" ", 5)[4]) for line in file]


def find_mounts_below(folder: str) -> list[str]:
    """Return the mount points at or beneath ``folder``, the last mounted first."""
    prefix = folder.rstrip("/") + "/"
    points = [p for p in list_mount_points() if p == folder or p.startswith(prefix)]
    return points[::-1]


def _unescape(field: bytes) -> str:
    import os

    if b"\\" not in field:
        return os.fsdecode(field)
    for octal, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, plain)
    return os.fsdecode(field)
