"""The kernel's random number generator."""

from __future__ import annotations

import fcntl
import os
import struct

from kata.base.errors import Code, KataError

# linux/random.h
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# An ioctl's buffer must fit into a page or so; seeds are 32 to 512 bytes.
MAX_SEED = 4096


def reseed(seed: bytes) -> None:
    """Mix ``seed`` in, credit it, and make the generator use it at once.  Raises OSError."""
    if not 0 < len(seed) <= MAX_SEED:
        raise KataError(
            f"reseed random numbers: a seed of {len(seed)} bytes, wanted 1 to {MAX_SEED}",
            Code.INVALID_ARGUMENT,
        )
    fd = os.open("/dev/urandom", os.O_RDWR | os.O_CLOEXEC)
    try:
        # struct rand_pool_info: entropy in bits, length in bytes, the bytes.
        fcntl.ioctl(fd, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
        fcntl.ioctl(fd, RNDRESEEDCRNG)
    finally:
        os.close(fd)
