"""The note by which a guest's kernel knows that a memory device is for a file system with DAX.

Without it the kernel makes a plain disk of an NVDIMM, as it has no ``struct page`` for its memory
then.  Owned by the image builder.  Format: struct nd_pfn_sb of drivers/nvdimm/pfn.h of the kernel.
"""

from __future__ import annotations

import struct

# Where the file system begins, and what every size must be a multiple of: the kernel gives such
# memory away in parts of 2 MiB (memremap_compat_align).
ALIGN_BYTES = 2 << 20
_NOTE_OFFSET, _NOTE_BYTES = 4096, 4096
_SIGNATURE = b"NVDIMM_PFN_INFO\0"
# Any fixed one: nothing of an image tells it from another by this.
_UUID = bytes.fromhex("6b61746100004000800000000000006d")
_PARENT_UUID = bytes(16)  # of a device without labels
_VERSION = (1, 4)
_PAGE_BYTES, _PAGE_STRUCT_BYTES = 4096, 64
# PFN_MODE_RAM: struct pages are in the guest's memory, and the device is never written.
_MODE_RAM = 1
_FIELDS = struct.Struct("<16s16s16sI2HQQ5IH3994xQ")


def render_header(image_bytes: int) -> bytes:
    """Return what comes before the file system in an image of ``image_bytes``, itself included."""
    count = (image_bytes - ALIGN_BYTES) // _PAGE_BYTES
    note = _render_note(count, 0)
    note = _render_note(count, fletcher64(note))
    return (bytes(_NOTE_OFFSET) + note).ljust(ALIGN_BYTES, b"\0")


def _render_note(page_count: int, checksum: int) -> bytes:
    note = _FIELDS.pack(
        _SIGNATURE,
        _UUID,
        _PARENT_UUID,
        0,  # flags
        *_VERSION,
        ALIGN_BYTES,  # where the data begins
        page_count,
        _MODE_RAM,
        0,  # padding at the start
        0,  # and at the end
        ALIGN_BYTES,
        _PAGE_BYTES,
        _PAGE_STRUCT_BYTES,
        checksum,
    )
    assert len(note) == _NOTE_BYTES
    return note


def fletcher64(data: bytes) -> int:
    """Return the checksum that the kernel computes over 32-bit words (nd_fletcher64)."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", data):
        low = (low + word) & 0xFFFFFFFF
        high += low
    return (high & 0xFFFFFFFF) << 32 | low
