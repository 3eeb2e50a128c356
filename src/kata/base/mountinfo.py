"""What is mounted where (proc(5), mountinfo)."""

from __future__ import annotations

import os


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
