"""The kernel image: from Debian's bzImage to the ELF file that QEMU starts at once.

An uncompressed kernel started by PVH skips the real-mode set-up and the decompressor, which under
emulation take 0.45 s of 2 s.  Owned by the image builder.  bzImage header: Documentation/arch/x86/
boot.rst of the kernel.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import elf

if TYPE_CHECKING:
    from collections.abc import Callable

DECOMPRESS_TIMEOUT_S = 120.0
_SETUP_SECTS, _HEADER_MAGIC, _PROTOCOL = 0x1F1, 0x202, 0x206
_PAYLOAD_OFFSET = 0x248
# The fields payload_offset and payload_length came with this version of the boot protocol.
_PROTOCOL_WITH_PAYLOAD = 0x0208


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel file for the VM; ``form`` is ``vmlinux`` (started by PVH) or ``bzImage``."""

    data: bytes
    form: str
    reason: str = ""


def unpack_kernel(bzimage: bytes) -> Kernel:
    """Return the ELF kernel inside, or the bzImage as it is with the reason.

    Raises KataError when the file is no bzImage, or when its payload cannot be unpacked.
    """
    vmlinux = _decompress(_payload(bzimage))
    if not elf.is_elf(vmlinux):
        raise KataError("unpack kernel: payload is no ELF file", Code.DATA_LOSS)
    if not elf.has_pvh_entry(vmlinux):
        return Kernel(bzimage, "bzImage", "the kernel has no PVH entry (CONFIG_PVH)")
    return Kernel(vmlinux, "vmlinux")


def _payload(bzimage: bytes) -> bytes:
    if len(bzimage) < _PAYLOAD_OFFSET + 8 or bzimage[_HEADER_MAGIC : _HEADER_MAGIC + 4] != b"HdrS":
        raise KataError("unpack kernel: no bzImage header", Code.INVALID_ARGUMENT)
    (protocol,) = struct.unpack_from("<H", bzimage, _PROTOCOL)
    if protocol < _PROTOCOL_WITH_PAYLOAD:
        raise KataError(
            f"unpack kernel: boot protocol {protocol:#x} is too old", Code.INVALID_ARGUMENT
        )
    # Zero sectors mean four, for the oldest loaders; the boot sector comes on top.
    setup_bytes = ((bzimage[_SETUP_SECTS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", bzimage, _PAYLOAD_OFFSET)
    payload = bzimage[setup_bytes + offset : setup_bytes + offset + length]
    if not length or len(payload) != length:
        raise KataError("unpack kernel: payload is cut off", Code.DATA_LOSS)
    return payload


def _decompress(payload: bytes) -> bytes:
    for magic, decompress in DECOMPRESSORS.items():
        if payload.startswith(magic):
            try:
                return decompress(payload)
            except (OSError, EOFError, lzma.LZMAError) as error:
                raise KataError(f"unpack kernel: {error}", Code.DATA_LOSS) from error
    raise KataError(
        f"unpack kernel: unknown compression (magic {payload[:4].hex(' ')})", Code.UNIMPLEMENTED
    )


def _by_tool(*command: str) -> Callable[[bytes], bytes]:
    def decompress(data: bytes) -> bytes:
        # The kernel's build appends the unpacked size as four bytes (not for gzip, which has it).
        packed = data[:-4]
        try:
            done = subprocess.run(
                command,
                input=packed,
                capture_output=True,
                timeout=DECOMPRESS_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise KataError(
                f"unpack kernel: {command[0]} is not installed",
                Code.FAILED_PRECONDITION,
                f"apt-get install {command[0]}",
            ) from error
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()[-200:]
            raise KataError(f"unpack kernel: {command[0]} failed: {reason}", Code.DATA_LOSS)
        return done.stdout

    return decompress


def _gunzip(data: bytes) -> bytes:
    return gzip.decompress(data)


def _unxz(data: bytes) -> bytes:
    return lzma.LZMADecompressor().decompress(data)


DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x02\x21\x4c\x18": _by_tool("lz4", "-dc"),
    b"\x28\xb5\x2f\xfd": _by_tool("zstd", "-dc"),
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ\x00": _unxz,
}
