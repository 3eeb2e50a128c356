"""What the specification's limits become in a cgroup of version 2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.guest import cgroup, limits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the files that the kernel would have put there."""
    for name in (
        "memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpu.max.burst",
        "cpu.idle", "cpuset.cpus", "cpuset.mems", "pids.max", "hugetlb.2MB.max", "memory.high",
    ):  # fmt: skip
        (tmp_path / name).touch()
    return tmp_path


def settings(folder: Path) -> dict[str, str]:
    return {path.name: text for path in folder.iterdir() if (text := path.read_text())}


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({}, {}),
        ({"memory": {"limit": 1 << 20}}, {"memory.max": "1048576"}),
        ({"memory": {"limit": -1}}, {"memory.max": "max"}),
        (
            {"memory": {"limit": 100, "swap": 150}},
            {"memory.max": "100", "memory.swap.max": "50"},
        ),
        ({"memory": {"limit": 100, "swap": 100}}, {"memory.max": "100", "memory.swap.max": "0"}),
        ({"memory": {"limit": 100, "swap": -1}}, {"memory.max": "100", "memory.swap.max": "max"}),
        ({"memory": {"swap": -1}}, {"memory.swap.max": "max"}),
        ({"memory": {"swap": 0}}, {}),
        ({"memory": {"reservation": 70}}, {"memory.low": "70"}),
        ({"cpu": {"shares": 2}}, {"cpu.weight": "1"}),
        ({"cpu": {"shares": 1024}}, {"cpu.weight": "39"}),
        ({"cpu": {"shares": 262144}}, {"cpu.weight": "10000"}),
        ({"cpu": {"shares": 0}}, {}),
        ({"cpu": {"quota": 50000, "period": 200000}}, {"cpu.max": "50000 200000"}),
        ({"cpu": {"quota": 50000}}, {"cpu.max": "50000 100000"}),
        ({"cpu": {"quota": -1, "period": 100000}}, {"cpu.max": "max 100000"}),
        ({"cpu": {"quota": 0, "period": 0}}, {}),
        ({"cpu": {"burst": 5, "idle": 1}}, {"cpu.max.burst": "5", "cpu.idle": "1"}),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
        ({"pids": {"limit": 7}}, {"pids.max": "7"}),
        ({"pids": {"limit": -1}}, {"pids.max": "max"}),
        ({"pids": {"limit": 0}}, {}),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, {"hugetlb.2MB.max": "0"}),
        ({"unified": {"memory.high": "9"}}, {"memory.high": "9"}),
    ],
)
def test_settings(folder: Path, resources: dict[str, Any], wanted: dict[str, str]) -> None:
    limits.update(str(folder), resources)
    assert settings(folder) == wanted


@pytest.mark.parametrize(("weight", "wide"), [(10, "1"), (500, "4950"), (1000, "10000")])
def test_weight_of_block_io_is_told_to_who_obeys_it(folder: Path, weight: int, wide: str) -> None:
    """The scheduler bfq, as runc has it, else the controller, whose range is another."""
    resources = {"blockIO": {"weight": weight}}
    assert limits.update(str(folder), resources) == "io.weight"
    assert settings(folder) == {}
    (folder / "io.weight").touch()
    assert limits.update(str(folder), resources) == ""
    assert settings(folder) == {"io.weight": wide}
    (folder / "io.bfq.weight").touch()
    (folder / "io.weight").unlink()
    assert limits.update(str(folder), resources) == ""
    assert settings(folder) == {"io.bfq.weight": str(weight)}


def test_limit_that_the_kernel_lacks(folder: Path) -> None:
    with pytest.raises(KataError, match=r"set limit rdma\.max: this kernel has no such limit"):
        limits.update(str(folder), {"unified": {"rdma.max": "1"}})


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        ({"memory": {"swappiness": 5}}, "swappiness"),
        ({"cpu": {"realtimeRuntime": 5}}, "realtimeRuntime"),
        ({"blockIO": {"weight": 10, "weightDevice": []}}, ""),
        ({"blockIO": {"weight": 10, "leafWeight": 10}}, "blockIO.leafWeight"),
        ({"network": {"classID": 1}}, "network"),
        ({"memory": {"limit": 5}, "cpu": {}, "blockIO": {}}, ""),
    ],
)
def test_what_is_left_to_crun(resources: dict[str, Any], named: str) -> None:
    assert limits.find_obstacle(resources) == named


@pytest.mark.parametrize("path", ["", "/", "../x", "/a/../../b"])
def test_path_that_is_none(path: str) -> None:
    with pytest.raises(KataError, match="make cgroup") as caught:
        limits.make(path, {})
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_folders_are_made_and_given_controllers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu\n")
    folder, missing = limits.make("/pods/c1", {})
    assert missing == ""
    assert folder == f"{tmp_path}/pods/c1"
    assert (tmp_path / "cgroup.subtree_control").read_text().startswith("+memory")
    limits.remove(folder)
    limits.remove(folder)
    assert not Path(folder).exists()


def test_failed_limit_leaves_no_cgroup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "ROOT", str(tmp_path))
    with pytest.raises(KataError, match=r"set limit pids\.max"):
        limits.make("/c1", {"pids": {"limit": 5}})
    assert not (tmp_path / "c1").exists()
