"""Ids of containers, as long as engines make them.

Names that the kernel, QEMU or a socket limits are often made of an id.  Every container that a test
makes has one of these, so what such a name cannot hold fails in any test.
"""

from __future__ import annotations

import binascii
import itertools
import os
import re

from kata.base.ids import MAX_LENGTH

# What Docker, Podman and CRI make.
_HEX_DIGITS = 64
_HEX_WORDS = 24
_NUMBERS = itertools.count()


def make_id(words: str) -> str:
    """Return an id that no other container of this run has, made from a test's name.

    The same words are always of the same kind: 64 hexadecimal digits, of which the last 48 are
    the words in ASCII, or 76 characters, the most that containerd takes.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", words.lower().removeprefix("test_")).strip("-")
    number = next(_NUMBERS)
    if binascii.crc32(plain.encode()) % 2:
        own = f"{os.getpid():08x}{number:08x}"
        return own + plain[:_HEX_WORDS].ljust(_HEX_WORDS).encode().hex()
    return f"{os.getpid()}-{number}-{plain[:40].rstrip('-')}-".ljust(MAX_LENGTH, "z")
