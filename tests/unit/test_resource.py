"""A sandbox's size and its cgroup on the host, the latter on trees of files as kernels show them.

The real hierarchy of the machine that runs the tests is of one version only.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kata.base import cgroups
from kata.base.errors import KataError
from kata.base.mountinfo import Mount
from kata.base.processes import Spawner, list_children
from kata.config.parse import ConfigFile, parse_config
from kata.host.resource.cgroup import CgroupSpawner, HostCgroupPlan, plan_cgroup
from kata.host.resource.sizing import Limits, Size, plan_size, read_limits

MIB = 1 << 20
POD = "/kubepods/burstable/pod1"
NEEDED = 700 * MIB
HYPERVISOR = parse_config([ConfigFile("c.toml", "")]).hypervisor


def mount(point: str, fstype: str, root: str = "/") -> Mount:
    return Mount(f"30 20 0:9 {root} {point} rw - {fstype} none rw\n".encode())


V1 = [mount(f"/c/{name}", "cgroup") for name in ("cpu,cpuacct", "memory", "systemd")]


def test_hierarchies_of_version_1_leave_out_the_named_and_the_unified_one() -> None:
    hybrid = [mount("/", "ext4"), *V1, mount("/c/unified", "cgroup2")]
    assert cgroups.find_hierarchies(hybrid) == ("/c/cpu,cpuacct", "/c/memory")


def test_the_hierarchy_of_version_2() -> None:
    assert cgroups.find_hierarchies([mount("/", "ext4"), mount("/c", "cgroup2")]) == ("/c",)


def test_a_host_without_cgroups() -> None:
    assert cgroups.find_hierarchies([mount("/", "ext4")]) == ()
    assert plan_cgroup("/x", (), 1, whole=False) == HostCgroupPlan(())


@pytest.mark.parametrize(
    ("path", "expanded"),
    [
        ("/default/c1", "/default/c1"),
        ("relative/c1/", "/relative/c1"),
        ("system.slice:cri:c1", "/system.slice/cri-c1.scope"),
        (
            "kubepods-burstable-pod1.slice:cri-containerd:c1",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
            "/cri-containerd-c1.scope",
        ),
    ],
)
def test_paths_are_those_of_engines(path: str, expanded: str) -> None:
    assert cgroups.expand_path(path) == expanded


@pytest.mark.parametrize("path", ["", "/", "/a/../../b"])
def test_no_path_is_no_cgroup(path: str) -> None:
    assert plan_cgroup(path, ("/c",), 1, whole=True).folders == ()


@pytest.fixture
def hybrid(tmp_path: Path) -> tuple[str, ...]:
    """Hierarchies of version 1 with a pod's folders."""
    for name in ("cpu", "cpuset", "memory"):
        (tmp_path / name / POD[1:]).mkdir(parents=True)
    for folder in (tmp_path / "cpuset", *(tmp_path / "cpuset").rglob("*")):
        (folder / "cpuset.cpus").write_text("0-1\n")
        (folder / "cpuset.mems").write_text("0\n")
    limit(tmp_path / "memory", "9223372036854771712")
    limit(tmp_path / "memory" / POD[1:], "9223372036854771712")
    return tuple(str(tmp_path / name) for name in ("cpu", "cpuset", "memory"))


def limit(folder: Path, text: str) -> None:
    (folder / "memory.limit_in_bytes").write_text(f"{text}\n")


def test_all_of_version_1_is_joined_without_a_limit(hybrid: tuple[str, ...]) -> None:
    plan = plan_cgroup(f"{POD}/s1", hybrid, NEEDED, whole=False)
    assert plan == HostCgroupPlan(tuple(f"{item}{POD}/s1" for item in hybrid))


def test_a_limit_that_is_too_small_leaves_memory_out(hybrid: tuple[str, ...]) -> None:
    limit(Path(hybrid[2] + POD), str(NEEDED - 1))
    plan = plan_cgroup(f"{POD}/s1", hybrid, NEEDED, whole=False)
    assert plan.folders == tuple(f"{item}{POD}/s1" for item in hybrid[:2])
    assert f"the memory limit of {hybrid[2]}{POD} is 699 MiB" in plan.left_out
    assert plan_cgroup(f"{POD}/s1", hybrid, NEEDED, whole=True).left_out == ""
    limit(Path(hybrid[2] + POD), str(NEEDED))
    assert plan_cgroup(f"{POD}/s1", hybrid, NEEDED, whole=False).left_out == ""


@pytest.fixture
def unified(tmp_path: Path) -> str:
    """A hierarchy of version 2 with a pod's folders."""
    folders = [tmp_path, tmp_path / "kubepods", tmp_path / "kubepods/burstable", tmp_path / POD[1:]]
    for folder in folders:
        folder.mkdir(exist_ok=True)
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text("")
        (folder / "memory.max").write_text("max\n")
    return str(tmp_path)


def test_version_2_is_joined_or_not_as_a_whole(unified: str) -> None:
    assert plan_cgroup(f"{POD}/s1", (unified,), NEEDED, whole=False).folders == (
        f"{unified}{POD}/s1",
    )
    Path(f"{unified}/kubepods/memory.max").write_text(f"{64 * MIB}\n")
    plan = plan_cgroup(f"{POD}/s1", (unified,), NEEDED, whole=False)
    assert plan.folders == ()
    assert f"{unified}/kubepods is 64 MiB" in plan.left_out


def test_folders_of_version_2_get_their_controllers(unified: str) -> None:
    plan = plan_cgroup(f"{POD}/s1", (unified,), NEEDED, whole=False)
    assert cgroups.make_folders(plan.folders) == [f"{unified}{POD}/s1"]
    assert Path(f"{unified}{POD}/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert cgroups.make_folders(plan.folders) == []
    cgroups.remove_folders(plan.folders)
    cgroups.remove_folders(plan.folders)
    assert not os.path.exists(plan.folders[0])


def test_folders_that_two_make_at_once(unified: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two containers below a new parent."""
    both = threading.Barrier(2, timeout=10)
    is_folder = os.path.isdir

    def look(path: str) -> bool:
        found = is_folder(path)
        if path.endswith("/new") and not found:
            both.wait()
        return found

    monkeypatch.setattr(os.path, "isdir", look)
    failures: list[KataError] = []

    def make(name: str) -> None:
        try:
            cgroups.make_folders([f"{unified}/new/{name}"])
        except KataError as error:
            failures.append(error)

    threads = [threading.Thread(target=make, args=(name,)) for name in ("c1", "c2")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert sorted(name for name in os.listdir(f"{unified}/new") if name[0] == "c") == ["c1", "c2"]


def test_what_cannot_be_made_leaves_nothing(unified: str, hybrid: tuple[str, ...]) -> None:
    good = f"{hybrid[0]}{POD}/s1"
    Path(f"{unified}{POD}/file").write_text("")
    with pytest.raises(KataError, match="make cgroup"):
        cgroups.make_folders([good, f"{unified}{POD}/file/s1"])
    assert not os.path.exists(good)


def test_a_folder_that_holds_something_is_told() -> None:
    with pytest.raises(KataError, match="remove cgroups: /proc: "):
        cgroups.remove_folders(["/proc"])


@pytest.fixture
def real() -> Iterator[HostCgroupPlan]:
    """A cgroup of this host."""
    from kata.base.mountinfo import list_mounts

    plan = plan_cgroup(
        f"/kata-tests/p{os.getpid()}", cgroups.find_hierarchies(list_mounts()), 0, whole=False
    )
    yield plan
    cgroups.remove_folders([os.path.dirname(folder) for folder in plan.folders])


def test_children_are_in_the_hosts_cgroup(real: HostCgroupPlan) -> None:
    made = cgroups.make_folders(real.folders)
    assert made
    spawner = CgroupSpawner(Spawner(), real)
    child = spawner.spawn(["/bin/sh", "-c", "sleep 100 & wait"], {})
    while not (grandchildren := list_children(child.pid)):
        pass
    family = {child.pid, *grandchildren}
    late = [folder for folder in made if os.path.exists(f"{folder}/cpu.cfs_quota_us")]
    for folder in made:
        found = set(map(int, Path(folder, "cgroup.procs").read_text().split()))
        assert (child.pid in found) == (folder not in late)
    spawner.settle()
    spawner.settle()
    for folder in made:
        assert set(map(int, Path(folder, "cgroup.procs").read_text().split())) == family
    for pid in family:
        os.kill(pid, signal.SIGKILL)
    child.wait()
    cgroups.remove_folders(made)
    assert not any(os.path.exists(folder) for folder in made)


def test_throttling_is_found_wherever_the_limit_is(unified: str) -> None:
    plan = plan_cgroup(f"{POD}/s1", (unified,), NEEDED, whole=False)
    cgroups.make_folders(plan.folders)
    spawner = CgroupSpawner(Spawner(), plan)
    stat = "usage_usec 5\nnr_periods {}\nnr_throttled {}\nthrottled_usec 7\n"
    Path(plan.folders[0], "cpu.stat").write_text(stat.format(0, 0))
    Path(f"{unified}{POD}/cpu.stat").write_text(stat.format(453, 447))
    told = f"its processors were throttled in 447 of 453 periods by the limit of {unified}{POD}"
    assert spawner.find_throttling() == told
    Path(f"{unified}{POD}/cpu.stat").write_text(stat.format(453, 0))
    assert spawner.find_throttling() == ""


def test_a_child_that_cannot_be_moved_is_ended(tmp_path: Path) -> None:
    spawner = CgroupSpawner(Spawner(), HostCgroupPlan((str(tmp_path),)))
    with pytest.raises(KataError, match="move /bin/sleep into cgroup"):
        spawner.spawn(["/bin/sleep", "100"], {})


# The machine's size.


def spec(memory: Any = None, **cpu: Any) -> dict[str, Any]:
    return {"linux": {"resources": {"memory": {"limit": memory}, "cpu": cpu}}}


def notes(**values: Any) -> dict[str, str]:
    prefix = "io.kubernetes.cri.sandbox-"
    return {prefix + key.replace("_", "-"): str(value) for key, value in values.items()}


@pytest.mark.parametrize(
    ("given", "annotations", "limits"),
    [
        ({}, {}, Limits()),
        ({"linux": None}, {}, Limits()),
        (spec(64 * MIB, quota=150_000, period=100_000), {}, Limits(64 * MIB, 1.5)),
        (spec(-1, quota=-1), {}, Limits()),
        (spec((1 << 63) - 4096), {}, Limits()),
        ({}, notes(memory=5, cpu_quota=50_000, cpu_period=100_000), Limits(5, 0.5)),
        ({}, notes(memory="x", cpu_quota="", cpu_period=0), Limits()),
        ({}, notes(cpu_quota=200_000), Limits(0, 2.0)),
    ],
)
def test_limits_are_the_pods_or_a_lone_containers(
    given: dict[str, Any], annotations: dict[str, str], limits: Limits
) -> None:
    assert read_limits(given, annotations) == limits


def test_a_machine_without_limits_is_as_configured() -> None:
    assert plan_size(HYPERVISOR, Limits(), 10_000) == Size(1, HYPERVISOR.default_memory_mib)


def test_limits_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    base = HYPERVISOR.default_memory_mib
    assert plan_size(HYPERVISOR, Limits(100 * MIB + 1, 1.5), 10_000) == Size(3, base + 101)


def test_limits_end_where_the_host_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    large = Limits(1 << 40, 64)
    assert plan_size(HYPERVISOR, large, 3000) == Size(2, 3000)
    most = replace(HYPERVISOR, default_maxmemory_mib=2000, default_maxvcpus=1)
    assert plan_size(most, large, 3000) == Size(1, 2000)
    # What the configuration asks for is not made less: that it does not fit is an error elsewhere.
    assert plan_size(HYPERVISOR, large, 100).memory_mib == HYPERVISOR.default_memory_mib
    assert plan_size(replace(HYPERVISOR, default_vcpus=-1), large, 3000).vcpus == 2
