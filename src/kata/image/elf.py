"""The few facts about ELF files that the image builder needs.

Reads 64-bit little-endian files only (x86-64 and aarch64 guests).  Knows nothing of packages.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from kata.base.errors import Code, KataError

PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
DT_NULL, DT_NEEDED, DT_STRTAB, DT_SONAME = 0, 1, 5, 14
DT_VERNEED, DT_VERNEEDNUM = 0x6FFFFFFE, 0x6FFFFFFF
# xen/include/public/elfnote.h: 32-bit entry point, what QEMU starts a PVH kernel at.
XEN_ELFNOTE_PHYS32_ENTRY = 18
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_VERSION_NEED = struct.Struct("<HHIII")


@dataclass(frozen=True, slots=True)
class Segment:
    """One program header."""

    kind: int
    offset: int
    address: int
    file_size: int


@dataclass(frozen=True, slots=True)
class SharedObject:
    """The dynamic section: what the loader will look for.

    ``needed`` maps each library's name to the file offset of the value that names it;
    ``versioned`` are the libraries from which versioned symbols are taken.
    """

    soname: str
    interpreter: str
    needed: dict[str, int]
    versioned: frozenset[str]


def is_elf(data: bytes) -> bool:
    """Tell whether the file is a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def parse_segments(data: bytes) -> list[Segment]:
    """Return the program headers; raise KataError when the file is no ELF file or cut off."""
    if not is_elf(data) or len(data) < 64:
        raise KataError("read ELF file: not 64-bit little-endian ELF", Code.INVALID_ARGUMENT)
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        start = table + index * size
        if size < _SEGMENT.size or start + _SEGMENT.size > len(data):
            raise KataError("read ELF file: program headers cut off", Code.DATA_LOSS)
        kind, _flags, offset, address, _, file_size, _, _ = _SEGMENT.unpack_from(data, start)
        segments.append(Segment(kind, offset, address, file_size))
    return segments


def parse_shared_object(data: bytes) -> SharedObject:
    """Read the dynamic section; a static file gives an empty record."""
    segments = parse_segments(data)
    interpreter = ""
    entries: list[tuple[int, int, int]] = []
    for segment in segments:
        if segment.kind == PT_INTERP:
            raw = data[segment.offset : segment.offset + segment.file_size]
            interpreter = raw.rstrip(b"\0").decode("ascii", "replace")
        elif segment.kind == PT_DYNAMIC:
            entries = _dynamic_entries(data, segment)
    values = {tag: value for tag, value, _ in entries}
    if DT_STRTAB not in values:
        return SharedObject("", interpreter, {}, frozenset())
    strings = _file_offset(segments, values[DT_STRTAB])
    needed = {
        _string(data, strings + value): place for tag, value, place in entries if tag == DT_NEEDED
    }
    soname = _string(data, strings + values[DT_SONAME]) if DT_SONAME in values else ""
    versioned = set()
    if DT_VERNEED in values:
        place = _file_offset(segments, values[DT_VERNEED])
        for _ in range(values.get(DT_VERNEEDNUM, 0)):
            if place + _VERSION_NEED.size > len(data):
                raise KataError("read ELF file: version needs cut off", Code.DATA_LOSS)
            _version, _count, file, _aux, following = _VERSION_NEED.unpack_from(data, place)
            versioned.add(_string(data, strings + file))
            place += following
    return SharedObject(soname, interpreter, needed, frozenset(versioned))


def without_needed(data: bytes, library: str) -> bytes:
    """Return the file without its dependency on a library of which it uses nothing.

    Linkers note every library of the command line, used or not.  The entry is made to name another
    needed library, so no section moves.  Raises KataError when symbols of the library are used.
    """
    shared = parse_shared_object(data)
    if library not in shared.needed:
        return data
    others = [place for name, place in shared.needed.items() if name != library]
    if library in shared.versioned or not others:
        raise KataError(f"drop {library} from ELF file: it is in use", Code.FAILED_PRECONDITION)
    patched = bytearray(data)
    place = shared.needed[library]
    patched[place : place + 8] = patched[others[0] : others[0] + 8]
    return bytes(patched)


def without_section(data: bytes, name: str) -> bytes:
    """Return the file with an empty section without a name in a section's place, of the same size.

    One that has none comes back as it is.  Raises KataError for a file that is cut off.
    """
    if not is_elf(data) or len(data) < 64:
        return data
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if count and (size < _SECTION.size or table + count * size > len(data)):
        raise KataError("read ELF file: section headers cut off", Code.DATA_LOSS)
    changed = bytearray(data)
    strings = _SECTION.unpack_from(data, table + names * size)[4] if count else 0
    for start in range(table, table + count * size, size):
        place, *_, offset, length = _SECTION.unpack_from(data, start)
        if _string(data, strings + place) == name:
            changed[offset : offset + length] = bytes(length)
            struct.pack_into("<I", changed, start, 0)
    return bytes(changed)


def has_pvh_entry(data: bytes) -> bool:
    """Tell whether a kernel can be started by PVH, which QEMU does for an uncompressed kernel."""
    return any(
        name == b"Xen\0" and kind == XEN_ELFNOTE_PHYS32_ENTRY
        for segment in parse_segments(data)
        if segment.kind == PT_NOTE
        for name, kind in _notes(data[segment.offset : segment.offset + segment.file_size])
    )


def _notes(block: bytes) -> list[tuple[bytes, int]]:
    notes = []
    place = 0
    while place + 12 <= len(block):
        name_size, value_size, kind = struct.unpack_from("<III", block, place)
        notes.append((block[place + 12 : place + 12 + name_size], kind))
        place += 12 + name_size + (-name_size % 4) + value_size + (-value_size % 4)
    return notes


def _dynamic_entries(data: bytes, segment: Segment) -> list[tuple[int, int, int]]:
    entries = []
    for place in range(segment.offset, segment.offset + segment.file_size, _DYNAMIC.size):
        if place + _DYNAMIC.size > len(data):
            raise KataError("read ELF file: dynamic section cut off", Code.DATA_LOSS)
        tag, value = _DYNAMIC.unpack_from(data, place)
        if tag == DT_NULL:
            break
        entries.append((tag, value, place + 8))
    return entries


def _file_offset(segments: list[Segment], address: int) -> int:
    for segment in segments:
        if (
            segment.kind == PT_LOAD
            and segment.address <= address < segment.address + segment.file_size
        ):
            return address - segment.address + segment.offset
    raise KataError(f"read ELF file: address {address:#x} is in no segment", Code.DATA_LOSS)


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    return data[offset:end].decode("ascii", "replace")
