"""Mount options as mount(8) writes them, as the flags and data of mount(2)."""

from __future__ import annotations

from kata.base import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Option: (flag, whether the option takes the flag away).
_FLAGS = {
    "ro": (syscalls.MS_RDONLY, False),
    "rw": (syscalls.MS_RDONLY, True),
    "nosuid": (syscalls.MS_NOSUID, False),
    "suid": (syscalls.MS_NOSUID, True),
    "nodev": (syscalls.MS_NODEV, False),
    "dev": (syscalls.MS_NODEV, True),
    "noexec": (syscalls.MS_NOEXEC, False),
    "exec": (syscalls.MS_NOEXEC, True),
    "sync": (syscalls.MS_SYNCHRONOUS, False),
    "async": (syscalls.MS_SYNCHRONOUS, True),
    "dirsync": (syscalls.MS_DIRSYNC, False),
    "remount": (syscalls.MS_REMOUNT, False),
    "mand": (syscalls.MS_MANDLOCK, False),
    "nomand": (syscalls.MS_MANDLOCK, True),
    "noatime": (syscalls.MS_NOATIME, False),
    "atime": (syscalls.MS_NOATIME, True),
    "nodiratime": (syscalls.MS_NODIRATIME, False),
    "diratime": (syscalls.MS_NODIRATIME, True),
    "relatime": (syscalls.MS_RELATIME, False),
    "norelatime": (syscalls.MS_RELATIME, True),
    "strictatime": (syscalls.MS_STRICTATIME, False),
    "nostrictatime": (syscalls.MS_STRICTATIME, True),
    "bind": (syscalls.MS_BIND, False),
    "rbind": (syscalls.MS_BIND | syscalls.MS_REC, False),
    "defaults": (0, False),
}

# Propagation cannot be set by the call that mounts.
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "shared": syscalls.MS_SHARED,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
    "slave": syscalls.MS_SLAVE,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
}


def list_names() -> list[str]:
    """Return the options that mean something to any file system."""
    return [*_FLAGS, *(name for name in _PROPAGATION if not name.endswith("shared"))]


class MountOptions:
    """What a list of options means to the kernel."""

    __slots__ = ("data", "flags", "propagation")

    def __init__(self, flags: int, propagation: tuple[int, ...], data: str) -> None:
        self.flags = flags
        self.propagation = propagation
        self.data = data


def parse_options(options: Iterable[str]) -> MountOptions:
    """Sort options into flags, propagation (each a call of its own) and the file system's data."""
    flags = 0
    propagation = []
    data = []
    for option in options:
        if option in _FLAGS:
            flag, cleared = _FLAGS[option]
            flags = flags & ~flag if cleared else flags | flag
        elif option in _PROPAGATION:
            propagation.append(_PROPAGATION[option])
        elif option:
            data.append(option)
    return MountOptions(flags, tuple(propagation), ",".join(data))


def mount(source: str, target: str, fstype: str, options: MountOptions) -> None:
    """Mount with everything the options ask, in as many calls as the kernel needs.

    Raises OSError; a bind whose second step fails is unmounted again.
    """
    syscalls.mount(source, target, fstype, options.flags, options.data)
    try:
        restrictions = options.flags & ~(syscalls.MS_BIND | syscalls.MS_REC)
        if options.flags & syscalls.MS_BIND and restrictions:
            remount = syscalls.MS_REMOUNT | syscalls.MS_BIND | restrictions
            syscalls.mount("", target, "", remount)
        for flag in options.propagation:
            syscalls.mount("", target, "", flag)
    except OSError:
        syscalls.umount(target, syscalls.MNT_DETACH)
        raise
