"""An image that a guest maps as memory: the file system, and the note before it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.image import cpio, erofs, nvdimm

PAGE = 4096
ENTRIES = cpio.with_parents(
    [
        cpio.file_entry("init", b"#!/bin/sh\n", 0o755),
        cpio.file_entry("usr/lib/small", b"x"),
        cpio.file_entry("usr/lib/large", bytes(range(256)) * 100),
        cpio.file_entry("usr/lib/empty", b""),
        cpio.link_entry("lib", "usr/lib"),
        cpio.folder_entry("tmp", 0o1777),
        cpio.folder_entry("proc", 0o555),
        cpio.character_device_entry("dev/console", (5, 1), 0o600),
        cpio.file_entry("usr/lib/modules/a.ko", b"module"),
        cpio.file_entry("usr/lib/kata/modules.list", b"a"),
    ]
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make(tmp_path, "image")


def make(folder: Path, name: str) -> Path:
    scratch = folder / f"{name}-scratch"
    scratch.mkdir()
    erofs.write_image(erofs.select_entries(ENTRIES), str(scratch), str(folder / name))
    return folder / name


@pytest.fixture
def mounted(image: Path, tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "mounted"
    place.mkdir()
    options = f"ro,loop,offset={nvdimm.ALIGN_BYTES}"
    subprocess.run(["mount", "-t", "erofs", "-o", options, str(image), str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_files_are_what_they_were(mounted: Path) -> None:
    found = {path.relative_to(mounted).as_posix() for path in mounted.rglob("*")}
    assert found == {
        *("init", "lib", "tmp", "proc", "dev", "usr", "usr/lib", "usr/lib/small"),
        *("usr/lib/large", "usr/lib/empty", "usr/lib/modules", "usr/lib/kata"),
    }
    for entry in erofs.select_entries(ENTRIES):
        path = mounted / entry.name
        info = path.lstat()
        assert (info.st_mode, info.st_uid, info.st_gid, info.st_mtime) == (entry.mode, 0, 0, 0)
        if path.is_symlink():
            assert str(path.readlink()).encode() == entry.data
        elif path.is_file():
            assert path.read_bytes() == entry.data


def test_every_file_begins_with_a_page_of_its_own(image: Path) -> None:
    content = image.read_bytes()
    for data in (b"x", b"#!/bin/sh\n", bytes(range(256)) * 100):
        page = data.ljust(-(-len(data) // PAGE) * PAGE, b"\0")
        assert any(
            content.startswith(page, at) for at in range(nvdimm.ALIGN_BYTES, len(content), PAGE)
        )


def test_the_same_entries_give_the_same_bytes(image: Path, tmp_path: Path) -> None:
    assert make(tmp_path, "again").read_bytes() == image.read_bytes()


def test_the_size_is_one_that_the_kernel_maps(image: Path) -> None:
    assert image.stat().st_size == 2 * nvdimm.ALIGN_BYTES


def test_the_note_is_one_that_the_kernel_believes() -> None:
    header = nvdimm.render_header(6 << 20)
    assert len(header) == 2 << 20
    assert not any(header[:PAGE])
    assert not any(header[2 * PAGE :])
    note = header[PAGE : 2 * PAGE]
    assert note.startswith(b"NVDIMM_PFN_INFO\0")
    data_offset, pages, mode = struct.unpack_from("<QQI", note, 56)
    assert (data_offset, pages, mode) == (2 << 20, (4 << 20) // PAGE, 1)
    (checksum,) = struct.unpack_from("<Q", note, PAGE - 8)
    assert checksum == nvdimm.fletcher64(note[:-8] + bytes(8)) != 0


def test_checksum() -> None:
    # The sums of 1, 2, 0xffffffff are 1, 3, 2 in 32 bits; those of the sums 1, 4, 6.
    assert nvdimm.fletcher64(struct.pack("<III", 1, 2, 0xFFFFFFFF)) == 6 << 32 | 2


def test_without_the_tool_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nothing")
    with pytest.raises(KataError, match=r"mkfs\.erofs is not installed") as caught:
        make(tmp_path, "image")
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert "apt-get install erofs-utils" in caught.value.hint
