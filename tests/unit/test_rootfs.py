"""Root file systems as containerd describes them: many layers, mapped owners."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.base.mountinfo import find_mounts_below
from kata.host.sandbox.rootfs import RootfsMount, mount_rootfs
from kata.host.share import layout
from kata.host.share.idmap import UNCHANGED, OwnerMaps, map_owners, take_maps

MAPS = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for name in ("target", "upper", "work"):
        (tmp_path / name).mkdir()
    yield tmp_path
    assert find_mounts_below(f"{tmp_path}/scratch") == []
    assert not (tmp_path / "scratch").exists()
    layout.unmount_below(str(tmp_path))


def make_layers(folder: Path, count: int) -> list[Path]:
    layers = [folder / "snapshots-of-some-length" / str(number) / "fs" for number in range(count)]
    for number, layer in enumerate(layers):
        layer.mkdir(parents=True)
        (layer / f"file{number}").write_text(str(number))
        os.chown(layer / f"file{number}", number, number)
    return layers


def overlay(folder: Path, layers: list[Path], *more: str) -> RootfsMount:
    options = (
        f"workdir={folder}/work",
        f"upperdir={folder}/upper",
        f"lowerdir={':'.join(map(str, layers))}",
        *more,
    )
    return RootfsMount("overlay", "overlay", options)


def mount(folder: Path, *mounts: RootfsMount) -> Path:
    mount_rootfs(f"{folder}/target", mounts, f"{folder}/scratch")
    return folder / "target"


def owners(path: Path) -> tuple[int, int]:
    return path.lstat().st_uid, path.lstat().st_gid


def test_more_layers_than_a_page_of_options(folder: Path) -> None:
    layers = make_layers(folder, 120)
    assert sum(len(str(layer)) for layer in layers) > 4096
    before = os.getcwd()
    root = mount(folder, overlay(folder, layers))
    assert {path.name for path in root.iterdir()} == {f"file{n}" for n in range(120)}
    assert os.getcwd() == before


def test_one_layer_for_reading(folder: Path) -> None:
    (layer,) = make_layers(folder, 1)
    root = mount(folder, RootfsMount("bind", str(layer), ("rbind", "ro")))
    assert (root / "file0").read_text() == "0"
    with pytest.raises(OSError, match="Read-only"):
        (root / "new").write_text("x")


def test_layers_with_mapped_owners(folder: Path) -> None:
    layers = make_layers(folder, 100)
    os.chown(folder / "upper", 100000, 200000)
    root = mount(folder, overlay(folder, layers, *MAPS))
    assert owners(root) == (100000, 200000)
    assert owners(root / "file0") == (100000, 200000)
    assert owners(root / "file99") == (100099, 200099)
    # What is written goes up with the owners that are seen.
    with (root / "file7").open("a") as file:
        file.write("more")
    assert owners(folder / "upper" / "file7") == (100007, 200007)
    assert owners(layers[7] / "file7") == (7, 7)


def test_a_folder_with_mapped_owners(folder: Path) -> None:
    (layer,) = make_layers(folder, 1)
    root = mount(folder, RootfsMount("bind", str(layer), ("rbind", "rw", *MAPS)))
    assert owners(root / "file0") == (100000, 200000)


def test_a_layer_that_is_missing(folder: Path) -> None:
    layers = [*make_layers(folder, 2), folder / "missing"]
    for more in ((), MAPS):
        with pytest.raises(KataError, match="mount rootfs") as caught:
            mount(folder, overlay(folder, layers, *more))
        assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("option", ["uidmap=", "uidmap=0:1", "gidmap=0:x:1", "gidmap=0:1:2,3"])
def test_a_map_that_is_none(option: str) -> None:
    with pytest.raises(KataError, match=f"option '{option}': expected FROM:TO:SIZE") as caught:
        take_maps(("ro", option))
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_maps_are_taken_out() -> None:
    options, maps = take_maps(("ro", "uidmap=0:10:5,5:100:1", "gidmap=0:20:5"))
    assert options == ("ro",)
    assert maps == (((0, 10, 5), (5, 100, 1)), ((0, 20, 5),))


def test_a_map_that_the_kernel_refuses(folder: Path) -> None:
    with pytest.raises(KataError, match="set uidMappings '0 100000 0'") as caught:
        mount(folder, overlay(folder, make_layers(folder, 1), "uidmap=0:100000:0", MAPS[1]))
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_file_system_without_maps() -> None:
    fd = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    try:
        map_owners(fd, UNCHANGED, "/proc")
        with pytest.raises(KataError, match="map the owners of /proc: Invalid argument") as caught:
            map_owners(fd, OwnerMaps((((0, 1, 1),), ((0, 1, 1),))), "/proc")
    finally:
        os.close(fd)
    assert caught.value.code is Code.FAILED_PRECONDITION
