"""Statistics of containers and pods, and limits that change."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.cgroups import find_hierarchies, make_folders
from kata.base.mountinfo import list_mounts
from kata.host.resource.cgroup import plan_cgroup
from tests.pods.conftest import PodMaker
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.client import Cri
from tests.support.cri.pods import Container, Pod
from tests.support.sandboxes import QEMU, find_pids

pytestmark = pytest.mark.e2e

MIB = 1 << 20


def test_statistics_of_a_container_follow_its_load(pod: Pod, cri: Cri) -> None:
    script = "dd if=/dev/zero of=/dev/shm/load bs=1M count=32 2>&1; echo up; while :; do :; done"
    container = pod.run("sh", "-c", script)
    container.wait_log("up\n")
    first = cri.container_stats(container.id)
    assert first.attributes.id == container.id
    assert 32 * MIB <= first.memory.working_set_bytes.value < 64 * MIB
    time.sleep(1.0)
    second = cri.container_stats(container.id)
    used = second.cpu.usage_core_nano_seconds.value - first.cpu.usage_core_nano_seconds.value
    passed = second.cpu.timestamp - first.cpu.timestamp
    assert 0.2 < used / passed < 1.2
    container.stop()
    pod.output("rm", "/dev/shm/load")


def test_statistics_of_idle_containers(pod: Pod, cri: Cri, shared_container: Container) -> None:
    stats = {entry.attributes.id: entry for entry in cri.list_container_stats(pod.id)}
    assert shared_container.id in stats
    assert 0 < stats[shared_container.id].memory.working_set_bytes.value < 32 * MIB


def test_a_memory_limit_is_the_containers(pod: Pod) -> None:
    resources = {"memory_limit_in_bytes": 24 * MIB}
    script = "dd if=/dev/zero of=/dev/shm/big bs=1M count=64; echo code $?"
    container = pod.run("sh", "-c", script, resources=resources)
    container.wait()
    pod.output("rm", "-f", "/dev/shm/big")
    assert container.status().reason == "OOMKilled" or "code 137" in container.log()


def test_limits_can_change(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    container = pod.run(resources={"memory_limit_in_bytes": 64 * MIB, "cpu_shares": 512})
    assert read_limit(container) == 64 * MIB
    cri.update(container.id, pb.LinuxContainerResources(memory_limit_in_bytes=96 * MIB))
    assert read_limit(container) == 96 * MIB


def test_a_container_sees_its_own_cgroup(pod: Pod) -> None:
    container = pod.run(resources={"cpu_quota": 25_000, "cpu_period": 50_000})
    assert container.sh("cat /proc/self/cgroup; cat /sys/fs/cgroup/cpu.max") == "0::/\n25000 50000"


def read_limit(container: Container) -> int:
    return int(container.sh("cat /sys/fs/cgroup/memory.max"))


# The pod as a whole.


@pytest.fixture
def parent() -> Iterator[str]:
    """A cgroup for a pod, as kubelet makes one."""
    name = f"/kata-tests/pod{os.getpid()}"
    yield name
    for hierarchy in find_hierarchies(list_mounts()):
        for folder in (f"{hierarchy}{name}", f"{hierarchy}/kata-tests"):
            if os.path.isdir(folder):
                os.rmdir(folder)  # fails while there is something in it


def test_a_machine_is_sized_by_and_counted_for_its_pod(
    parent: str, make_pod: PodMaker, cri: Cri
) -> None:
    resources = {
        "memory_limit_in_bytes": 200 * MIB,
        "cpu_quota": 100_000,
        "cpu_period": 100_000,
    }
    pod = make_pod(linux={"cgroup_parent": parent, "resources": resources})
    container = pod.run()
    assert container.sh("grep -c ^processor /proc/cpuinfo") == str(min(2, os.cpu_count() or 1))
    total_kib = int(container.sh("awk '/MemTotal/ {print $2}' /proc/meminfo"))
    assert 200 << 10 < total_kib - (512 << 10) + (150 << 10) < 350 << 10
    stats = cri.pod_stats(pod.id).linux
    assert stats.memory.working_set_bytes.value > 60 * MIB
    assert stats.cpu.usage_core_nano_seconds.value > 500_000_000
    assert stats.network.default_interface.name == "eth0"
    for hierarchy in find_hierarchies(list_mounts()):
        assert os.listdir(f"{hierarchy}{parent}/{pod.id}")
    pod.remove()
    for hierarchy in find_hierarchies(list_mounts()):
        assert not os.path.exists(f"{hierarchy}{parent}/{pod.id}")


def test_a_machine_that_its_pods_limit_would_kill_stays_outside(
    parent: str, make_pod: PodMaker, cri: Cri
) -> None:
    hierarchies = find_hierarchies(list_mounts())
    make_folders(plan_cgroup(parent, hierarchies, 0, whole=True).folders)
    for hierarchy in hierarchies:
        for name in ("memory.limit_in_bytes", "memory.max"):
            limit = Path(f"{hierarchy}{parent}/{name}")
            if limit.exists():
                limit.write_text(str(64 * MIB))
    pod = make_pod(linux={"cgroup_parent": parent})
    assert pod.output("echo", "alive") == "alive\n"
    assert "machine not counted as the pod's memory" in pod.node.containerd.log
    assert cri.pod_stats(pod.id).linux.memory.working_set_bytes.value < 60 * MIB


def test_a_machine_boots_outside_of_a_small_limit_of_processors(
    parent: str, make_pod: PodMaker
) -> None:
    """Where the pod's limit is a hierarchy's of its own, and is in it when it has booted."""
    hierarchies = find_hierarchies(list_mounts())
    make_folders(plan_cgroup(parent, hierarchies, 0, whole=True).folders)
    quotas = [Path(f"{hierarchy}{parent}/cpu.cfs_quota_us") for hierarchy in hierarchies]
    (quota,) = [path for path in quotas if path.exists()]
    quota.write_text("10000")  # of 100000: 100m
    # A template would not have to boot.
    pod = make_pod(
        linux={"cgroup_parent": parent},
        annotations={"io.katacontainers.config.hypervisor.kernel_params": "quiet"},
    )
    procs = quota.with_name(pod.id) / "cgroup.procs"
    assert set(find_pids(pod.id, QEMU)) <= set(map(int, procs.read_text().split()))
    assert pod.output("echo", "alive") == "alive\n"
