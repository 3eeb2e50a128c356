"""ELF facts, held against readelf(1)'s idea of programs of this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import KataError
from kata.image import elf


def upb() -> bytes:
    spec = importlib.util.find_spec("google._upb._message")
    assert spec
    assert spec.origin
    return Path(spec.origin).read_bytes()


def test_the_interpreters_libraries() -> None:
    shared = elf.parse_shared_object(Path("/usr/bin/python3").read_bytes())
    assert shared.interpreter == "/lib64/ld-linux-x86-64.so.2"
    assert {"libc.so.6", "libz.so.1", "libexpat.so.1"} <= shared.needed.keys()
    assert "libc.so.6" in shared.versioned


def test_a_library_knows_its_name() -> None:
    library = Path("/lib/x86_64-linux-gnu/libz.so.1").read_bytes()
    assert elf.parse_shared_object(library).soname == "libz.so.1"


def test_an_unused_library_is_dropped() -> None:
    assert "libstdc++.so.6" in elf.parse_shared_object(upb()).needed
    patched = elf.without_needed(upb(), "libstdc++.so.6")
    assert len(patched) == len(upb())
    assert elf.parse_shared_object(patched).needed.keys() == {"libm.so.6", "libc.so.6"}


def test_a_library_in_use_stays() -> None:
    with pytest.raises(KataError, match="in use"):
        elf.without_needed(upb(), "libc.so.6")


def test_a_section_is_emptied() -> None:
    data = Path("/usr/bin/true").read_bytes()
    changed = elf.without_section(data, ".gnu_debuglink")
    assert len(changed) == len(data)
    assert changed != data
    assert elf.without_section(changed, ".gnu_debuglink") == changed
    assert elf.without_section(data, ".nothing") == data
    assert elf.without_section(b"no such file", ".BTF") == b"no such file"
    with pytest.raises(KataError, match="cut off"):
        elf.without_section(data[:-100], ".gnu_debuglink")


def test_a_program_is_no_kernel() -> None:
    assert not elf.has_pvh_entry(Path("/usr/bin/python3").read_bytes())


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damaged_files_are_errors(noise: bytes, place: int) -> None:
    head = bytearray(Path("/usr/bin/python3").read_bytes()[:4096])
    head[place : place + len(noise)] = noise
    for data in (noise, bytes(head)):
        try:
            elf.parse_shared_object(data)
        except KataError:
            pass
