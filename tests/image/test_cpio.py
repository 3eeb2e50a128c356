"""The archive writer, held against cpio(1)."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import KataError
from kata.image import cpio

NAMES = st.lists(st.sampled_from(["a", "b", "c.d", "ü"]), min_size=1, max_size=4).map("/".join)


def render(entries: list[cpio.Entry]) -> bytes:
    return b"".join(cpio.render_archive(cpio.with_parents(entries)))


def test_cpio_unpacks_what_was_written(tmp_path: Path) -> None:
    archive = render(
        [
            cpio.file_entry("usr/bin/tool", b"#!/bin/sh\n", 0o755),
            cpio.file_entry("etc/odd", b"12345"),
            cpio.link_entry("bin", "usr/bin"),
            cpio.folder_entry("tmp", 0o1777),
            cpio.character_device_entry("dev/null", (1, 3), 0o666),
        ]
    )
    subprocess.run(["cpio", "-idm", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "usr/bin/tool").stat().st_mode == stat.S_IFREG | 0o755
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "etc/odd").read_bytes() == b"12345"
    assert (tmp_path / "tmp").stat().st_mode == stat.S_IFDIR | 0o1777
    assert (tmp_path / "dev/null").stat().st_rdev == os.makedev(1, 3)


def test_folders_come_before_what_is_in_them() -> None:
    entries = cpio.with_parents([cpio.file_entry("z/y/x", b""), cpio.file_entry("a", b"")])
    assert [entry.name for entry in entries] == ["a", "z", "z/y", "z/y/x"]


@pytest.mark.parametrize("names", [["a", "a"], ["a", "a/b"]])
def test_names_that_exclude_each_other_are_refused(names: list[str]) -> None:
    with pytest.raises(KataError):
        cpio.with_parents([cpio.file_entry(name, b"") for name in names])


def test_absolute_names_are_refused() -> None:
    with pytest.raises(KataError):
        list(cpio.render_archive([cpio.file_entry("/etc/passwd", b"")]))


@given(st.dictionaries(NAMES, st.binary(max_size=20), max_size=5))
def test_reading_gives_back_what_was_written(files: dict[str, bytes]) -> None:
    try:
        entries = cpio.with_parents([cpio.file_entry(name, data) for name, data in files.items()])
    except KataError:
        return
    archive = b"".join(cpio.render_archive(entries))
    assert len(archive) % 4 == 0
    assert cpio.parse_archive(archive) == entries


def test_a_cut_archive_is_an_error() -> None:
    with pytest.raises(KataError):
        cpio.parse_archive(render([cpio.file_entry("a", b"b")])[:-100])
