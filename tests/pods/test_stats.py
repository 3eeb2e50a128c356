"""Statistics of containers and pods, and limits that change."""

from __future__ import annotations

import time

import pytest

from tests.pods.conftest import PodMaker
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.client import Cri
from tests.support.cri.pods import Container, Pod

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


def read_limit(container: Container) -> int:
    path = "/sys/fs/cgroup$(cut -d: -f 3 /proc/self/cgroup)/memory.max"
    return int(container.sh(f"cat {path}"))
