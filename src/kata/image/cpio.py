"""Archives in the newc format, as the kernel unpacks them into its first root file system.

Owned by the image builder.  The same entries always give the same bytes: names are sorted, inode
numbers counted, owner and times fixed.  Format: Documentation/driver-api/early-userspace/
buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
# The kernel's limits: a name is read into a buffer of PATH_MAX, a size has eight hex digits.
NAME_MAX_BYTES = 4095
DATA_MAX_BYTES = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, folder, link or device; ``mode`` includes the file type as in ``st_mode``."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def file_entry(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a regular file."""
    return Entry(name, stat.S_IFREG | mode, data)


def folder_entry(name: str, mode: int = 0o755) -> Entry:
    """Return an empty folder."""
    return Entry(name, stat.S_IFDIR | mode)


def link_entry(name: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device_entry(name: str, device: tuple[int, int], mode: int) -> Entry:
    """Return a character device node; ``device`` is major and minor."""
    return Entry(name, stat.S_IFCHR | mode, device=device)


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Add the folders that the entries' names imply; return all sorted by name.

    The kernel creates no parents by itself, and needs them earlier in the archive, which sorting
    gives.  Raises KataError when a name occurs twice or lies below something that is no folder.
    """
    known: dict[str, Entry] = {}
    for entry in entries:
        if entry.name in known:
            raise KataError(f"add {entry.name} to archive: name occurs twice")
        known[entry.name] = entry
    for name in list(known):
        parent = name.rpartition("/")[0]
        while parent:
            above = known.setdefault(parent, folder_entry(parent))
            if not stat.S_ISDIR(above.mode):
                raise KataError(f"add {name} to archive: {parent} is no folder")
            parent = parent.rpartition("/")[0]
    return [known[name] for name in sorted(known)]


def render_archive(entries: Iterable[Entry], mtime_s: int = 0) -> Iterator[bytes]:
    """Yield the archive's bytes; the entries must be complete and in order (see with_parents)."""
    inode = 1
    for entry in entries:
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        yield from _render_entry(entry, inode, links, mtime_s)
        inode += 1
    yield from _render_entry(Entry(TRAILER, 0), 0, 1, 0)


def _render_entry(entry: Entry, inode: int, links: int, mtime_s: int) -> Iterator[bytes]:
    name = entry.name.encode() + b"\0"
    if len(name) > NAME_MAX_BYTES or len(entry.data) > DATA_MAX_BYTES or entry.name[:1] == "/":
        raise KataError(
            f"add {entry.name[:80]!r} to archive: name or size out of range", Code.OUT_OF_RANGE
        )
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        mtime_s,
        len(entry.data),
        0,  # device that holds the file
        0,
        *entry.device,
        len(name),
        0,  # check sum, used by another magic only
    )
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    yield header + name + _padding(len(header) + len(name))
    if entry.data:
        yield entry.data
        yield _padding(len(entry.data))


def _padding(length: int) -> bytes:
    return b"\0" * (-length % 4)


def parse_archive(data: bytes) -> list[Entry]:
    """Read an archive back, for tests and ``kata-image show``."""
    entries: list[Entry] = []
    offset = 0
    while True:
        header = data[offset : offset + 110]
        if len(header) < 110 or header[:6] != MAGIC:
            raise KataError(f"read archive: no header at offset {offset}", Code.DATA_LOSS)
        fields = [int(header[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, name_size = fields[1], fields[6], (fields[9], fields[10]), fields[11]
        name = data[offset + 110 : offset + 110 + name_size - 1].decode()
        offset += 110 + name_size + (-(110 + name_size) % 4)
        if name == TRAILER:
            return entries
        entries.append(Entry(name, mode, data[offset : offset + size], device))
        offset += size + (-size % 4)
