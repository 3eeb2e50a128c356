"""What is mounted where (proc(5), mountinfo)."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Mount:
    """One line: where, what of which file system.  ``device`` is ``major:minor``, ``id`` unique."""

    __slots__ = ("device", "fstype", "id", "point", "root")

    def __init__(self, line: bytes) -> None:
        fields, _, rest = line.partition(b" - ")
        words = fields.split(b" ")
        self.id = words[0].decode()
        self.device = words[2].decode()
        self.root = _unescape(words[3])
        self.point = _unescape(words[4])
        self.fstype = rest.split(b" ", 1)[0].decode()


def list_mounts(path: str = "/proc/thread-self/mountinfo") -> list[Mount]:
    """Return the mounts of this mount namespace, in the order they were mounted."""
    with open(path, "rb") as file:
        return [Mount(line) for line in file]


def find_mount_of(path: str, mounts: Sequence[Mount]) -> Mount | None:
    """Return the mount that an absolute path without links lies on."""
    found = None
    for mount in mounts:
        prefix = mount.point.rstrip("/") + "/"
        inside = path == mount.point or path.startswith(prefix)
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


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
    if b"\\" not in field:
        return os.fsdecode(field)
    for octal, plain in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(octal, plain)
    return os.fsdecode(field)
