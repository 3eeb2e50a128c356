"""What a stand-in shows and where it is, as it is planned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kata.base.mountinfo import Mount
from kata.base.syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWPID, CLONE_NEWUTS
from kata.cli.oci.namespaces import plan_beside, plan_namespaces
from kata.cli.oci.streams import _shorten
from kata.cli.oci.view import Place, plan_view


def mounts_of(folder: Path) -> list[Mount]:
    empty_dir = f"{folder}/kubernetes.io~empty-dir/cache"
    lines = (
        "1 0 8:1 / / rw - ext4 /dev/sda rw",
        "2 1 0:5 / /proc rw - proc proc rw",
        "3 1 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup rw",
        f"4 1 0:7 / {folder}/shm rw - tmpfs shm rw",
        f"5 1 0:8 / {empty_dir} rw - tmpfs tmpfs rw",
    )
    return [Mount(line.encode()) for line in lines]


def plan(folder: Path, **mount: Any) -> tuple[Place, ...]:
    spec = {"root": {}, "linux": {}, "mounts": [{"options": ["rbind"], **mount}]}
    return plan_view(spec, "/rootfs", mounts_of(folder)).places


def test_a_volume_is_shown_where_it_belongs(tmp_path: Path) -> None:
    found = plan(tmp_path, destination="//a/../b", source=str(tmp_path), type="bind")
    assert found == (Place("/b", source=str(tmp_path), options=("rbind",)),)


@pytest.mark.parametrize(
    ("target", "source", "is_shown"),
    [
        ("/dev/shm", "shm", False),
        ("/other", "shm", True),
        ("/cache", "kubernetes.io~empty-dir/cache", False),
        ("/host-proc", "/proc", False),
        ("/sys/fs/cgroup", "/sys/fs/cgroup", False),
    ],
)
def test_what_is_the_guests_is_an_empty_folder(
    tmp_path: Path, target: str, source: str, is_shown: bool
) -> None:
    path = tmp_path / source
    path.mkdir(parents=True, exist_ok=True)
    (place,) = plan(tmp_path, destination=target, source=str(path))
    assert place == (
        Place(target, source=str(path), options=("rbind",)) if is_shown else Place(target)
    )


def test_no_folder_is_made_where_the_guest_has_a_file(tmp_path: Path) -> None:
    assert plan(tmp_path, destination="/file", source="/proc/version") == ()


def test_namespaces_are_made_unless_they_are_named() -> None:
    found = plan_namespaces({"pid": "/proc/7/ns/pid", "ipc": "", "mount": ""}, None, "name", ["/c"])
    assert found.joined == (("/proc/7/ns/pid", CLONE_NEWPID),)
    assert found.new & CLONE_NEWIPC
    assert found.new & CLONE_NEWUTS
    assert not found.new & (CLONE_NEWPID | CLONE_NEWNET)
    assert (found.host_name, found.cgroups) == ("name", ("/c",))
    assert plan_namespaces({}, "", "", []).new & CLONE_NEWNET
    assert plan_namespaces({"uts": "/proc/7/ns/uts"}, None, "name", []).host_name == ""
    assert "/proc/9/ns/net" in dict(plan_beside(9).joined)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["a", "b c", "é"], ["a", "b c", "é"]),
        (["nul\0", "lone\ud800"], ["nul?", "lone?"]),
        (["x" * 5000, "y"], ["x" * 4096]),
    ],
)
def test_command_lines_are_shown_as_programs_can_be_given_them(
    words: list[str], shown: list[str]
) -> None:
    assert _shorten(words) == shown
