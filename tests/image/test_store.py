"""Versions of the image side by side."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.image import store


def publish(folder: Path, key: str) -> None:
    shelf = store.image_shelf(str(folder))
    with store.locked(shelf), store.scratch_folder(shelf) as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        for name in store.image_shelf("").names[:-1]:
            (made / name).write_text(key)
        files = {name: {"size": len(key)} for name in store.image_shelf("").names[:-1]}
        (made / store.MANIFEST).write_text(json.dumps({"key": key, "files": files}))
        store.publish_version(shelf, str(made), key)
        store.prune_versions(shelf)


def test_plain_names_lead_to_the_newest(tmp_path: Path) -> None:
    for key in ("a" * 64, "b" * 64):
        publish(tmp_path, key)
        assert (tmp_path / store.KERNEL).read_text() == key
        assert store.load_manifest(store.image_shelf(str(tmp_path)))["key"] == key


def test_one_version_is_kept_to_go_back_to(tmp_path: Path) -> None:
    for number, letter in enumerate("abcd"):
        publish(tmp_path, letter * 64)
        os.utime(tmp_path / "versions" / (letter * 12), (number, number))
    kept = sorted(path.name for path in (tmp_path / "versions").iterdir() if path.name[0] != ".")
    assert kept == ["c" * 12, "d" * 12]


def test_the_same_key_can_be_published_again(tmp_path: Path) -> None:
    publish(tmp_path, "a" * 64)
    publish(tmp_path, "a" * 64)
    assert (tmp_path / store.INITRD).read_text() == "a" * 64


def test_damage_makes_a_version_count_as_missing(tmp_path: Path) -> None:
    assert store.load_manifest(store.image_shelf(str(tmp_path))) == {}
    publish(tmp_path, "a" * 64)
    (tmp_path / store.INITRD).resolve().write_text("cut")
    assert store.load_manifest(store.image_shelf(str(tmp_path))) == {}


def test_nothing_half_made_is_left(tmp_path: Path) -> None:
    publish(tmp_path, "a" * 64)
    (tmp_path / "versions" / ".building-crashed").mkdir()
    with (
        pytest.raises(KataError, match="No space left") as caught,
        store.locked(store.image_shelf(str(tmp_path))),
        store.scratch_folder(store.image_shelf(str(tmp_path))),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    assert sorted(path.name for path in (tmp_path / "versions").iterdir()) == [".lock", "a" * 12]
    assert (tmp_path / store.KERNEL).read_text() == "a" * 64


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KataError, match=r"write guest image to .*/file"):
        publish(tmp_path / "file", "a" * 64)
