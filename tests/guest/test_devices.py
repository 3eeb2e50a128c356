"""All devices of a guest for a container, from a folder that stands for its /dev."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kata.base import syscalls
from kata.guest import devices
from kata.rpc.pb.agent_pb2 import Device

if TYPE_CHECKING:
    from kata.oci.render import Json


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, with nodes and more."""
    folder = tmp_path / "dev"
    (folder / "bus").mkdir(parents=True)
    (folder / "pts").mkdir()
    nodes = (
        ("sda", stat.S_IFBLK | 0o640, 8, 0),
        ("bus/one", stat.S_IFCHR | 0o600, 189, 1),
        ("null", stat.S_IFCHR | 0o666, 1, 3),
        ("vport1p1", stat.S_IFCHR | 0o600, 245, 1),
        ("console", stat.S_IFCHR | 0o600, 5, 1),
    )
    for name, mode, major, minor in nodes:
        os.mknod(folder / name, mode, os.makedev(major, minor))
        (folder / name).chmod(stat.S_IMODE(mode))
    (folder / "link").symlink_to("sda")
    (folder / "file").touch()
    monkeypatch.setattr(devices, "DEV", str(folder))
    return folder


def test_nodes_are_listed_and_nothing_else(dev: Path) -> None:
    found = devices.list_nodes(str(dev))
    assert {path.removeprefix(f"{dev}/") for path in found} == {"sda", "bus/one", "null"}
    assert found[f"{dev}/sda"] == {
        "path": f"{dev}/sda",
        "type": "b",
        "major": 8,
        "minor": 0,
        "fileMode": 0o640,
        "uid": 0,
        "gid": 0,
    }


def test_what_is_mounted_there_is_left_out(dev: Path) -> None:
    syscalls.mount("tmpfs", str(dev / "pts"), "tmpfs", 0, "")
    try:
        os.mknod(dev / "pts" / "0", stat.S_IFCHR | 0o600, os.makedev(136, 0))
        assert f"{dev}/pts/0" not in devices.list_nodes(str(dev))
    finally:
        syscalls.umount(str(dev / "pts"), 0)


def test_a_specification_gets_what_it_does_not_name(dev: Path) -> None:
    """And the nodes behind which nothing is loaded yet."""
    own: dict[str, Json] = {"path": f"{dev}/sda", "type": "b", "major": 254, "minor": 0}
    spec: dict[str, Json] = {"linux": {"devices": [own]}}
    devices.place_devices([Device(type="guest", container_path="/dev")], spec, lambda name: None)
    linux = spec["linux"]
    assert isinstance(linux, dict)
    entries = linux["devices"]
    assert isinstance(entries, list)
    found = {
        str(entry["path"]).removeprefix(f"{dev}/"): entry
        for entry in entries
        if isinstance(entry, dict)
    }
    assert len(found) == len(entries)
    assert found["sda"] is own
    assert {"null", "bus/one", "fuse", "net/tun", "loop-control", "loop0", "loop7"} <= set(found)
    assert (found["loop3"]["type"], found["loop3"]["major"], found["loop3"]["minor"]) == ("b", 7, 3)
