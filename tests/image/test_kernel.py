"""Unpacking bzImages: made here in every compression, with a minimal kernel inside."""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess

import pytest

from kata.base.errors import KataError
from kata.image import elf
from kata.image.kernel import unpack_kernel


def minimal_kernel(note_type: int = elf.XEN_ELFNOTE_PHYS32_ENTRY) -> bytes:
    """Return an ELF file with one note segment."""
    note = struct.pack("<III", 4, 4, note_type) + b"Xen\0" + b"\0\0\x10\0"
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", elf.PT_NOTE, 4, 120, 0, 0, len(note), len(note), 4)
    return header + segment + note + b"\0" * 1000


def by_tool(*command: str) -> bytes:
    return subprocess.run(command, input=minimal_kernel(), capture_output=True, check=True).stdout


def bzimage(payload: bytes) -> bytes:
    """Return a bzImage with one set-up sector besides the boot sector."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, 0x20F)
    struct.pack_into("<II", head, 0x248, 16, len(payload))
    return bytes(head) + b"\xcc" * 16 + payload + b"tail"


SIZE = struct.pack("<I", len(minimal_kernel()))


@pytest.mark.parametrize(
    "payload",
    [
        by_tool("lz4", "-l", "-c") + SIZE,
        by_tool("zstd", "-c") + SIZE,
        lzma.compress(minimal_kernel(), check=lzma.CHECK_CRC32) + SIZE,
        gzip.compress(minimal_kernel()),
    ],
    ids=["lz4", "zstd", "xz", "gzip"],
)
def test_every_compression_is_unpacked(payload: bytes) -> None:
    kernel = unpack_kernel(bzimage(payload))
    assert (kernel.form, kernel.data) == ("vmlinux", minimal_kernel())


def test_a_kernel_without_pvh_stays_packed() -> None:
    image = bzimage(gzip.compress(minimal_kernel(note_type=1)))
    kernel = unpack_kernel(image)
    assert (kernel.form, kernel.data) == ("bzImage", image)
    assert "PVH" in kernel.reason


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "no bzImage header"),
        (bzimage(b"\0" * 100), "unknown compression"),
        (bzimage(gzip.compress(b"no kernel")), "no ELF file"),
        (bzimage(gzip.compress(minimal_kernel())[:-50]), "unpack kernel"),
        (bzimage(by_tool("zstd", "-c")[:-50] + SIZE), "zstd failed"),
        (bzimage(gzip.compress(minimal_kernel()))[:1050], "cut off"),
    ],
    ids=["empty", "compression", "content", "gzip", "zstd", "cut"],
)
def test_damaged_images_are_errors(image: bytes, reason: str) -> None:
    with pytest.raises(KataError, match=reason):
        unpack_kernel(image)
