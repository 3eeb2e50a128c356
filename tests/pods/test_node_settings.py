"""A pod's limits and kernel settings: those of a Debian node, and what a pod wants besides."""

from __future__ import annotations

import pytest

from kata.guest.node import SETTINGS
from tests.pods.conftest import PodMaker
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.client import CriError
from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e

SYSCTLS = "io.katacontainers.config.agent.sysctls"
PRIVILEGED = pb.LinuxPodSandboxConfig(
    security_context=pb.LinuxSandboxSecurityContext(privileged=True)
)
# Debian 12, containerd.service with systemd, soft and hard.
NODES_LIMITS = {
    "Max open files": ("1048576", "1048576"),
    "Max processes": ("unlimited", "unlimited"),
    "Max core file size": ("unlimited", "unlimited"),
    "Max locked memory": ("8388608", "8388608"),
    "Max stack size": ("8388608", "unlimited"),
}


def limits_of(text: str) -> dict[str, tuple[str, str]]:
    """Return soft and hard limits of a file ``limits`` in /proc."""
    found = {}
    for line in text.splitlines()[1:]:
        soft, hard = line[26:].split()[:2]
        found[line[:26].strip()] = soft, hard
    return found


def read_setting(container: Container, name: str) -> str:
    return container.sh(f"cat /proc/sys/{name.replace('.', '/')}")


def test_limits_are_those_of_a_node(shared_container: Container) -> None:
    """Of the container's process, and of an exec."""
    limits = limits_of(shared_container.sh("cat /proc/1/limits"))
    assert {name: limits[name] for name in NODES_LIMITS} == NODES_LIMITS
    assert limits_of(shared_container.sh("cat /proc/self/limits")) == limits


def test_limits_of_another_user(pod: Pod) -> None:
    limits = limits_of(pod.output("cat", "/proc/self/limits", run_as_user={"value": 1234}))
    assert {name: limits[name] for name in NODES_LIMITS} == NODES_LIMITS


def test_the_kernel_is_set_as_a_nodes(shared_container: Container) -> None:
    wanted = [f"{name} = {value}" for name, value in SETTINGS]
    assert shared_container.sh(f"sysctl {' '.join(dict(SETTINGS))}").splitlines() == wanted


def test_a_pod_sets_its_kernel_for_all_containers(make_pod: PodMaker) -> None:
    """By annotation, and by a privileged container that runs before the others."""
    wanted = "vm.nr_hugepages=2; kernel.printk = 3 4 1 7; net.core.rmem_max=8388608"
    pod = make_pod(annotations={SYSCTLS: wanted}, linux=PRIVILEGED)
    first = pod.run("sh", "-c", "sysctl -w vm.max_map_count=262144", privileged=True)
    assert first.finish() == "vm.max_map_count = 262144\n"
    container = pod.run(readonly_paths=["/proc/sys"])
    assert read_setting(container, "vm.nr_hugepages") == "2"
    assert read_setting(container, "kernel.printk").split() == ["3", "4", "1", "7"]
    assert read_setting(container, "net.core.rmem_max") == "8388608"
    assert read_setting(container, "vm.max_map_count") == "262144"
    assert "Read-only" in container.sh("(echo 1 > /proc/sys/vm/max_map_count) 2>&1 || true")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("vm.no_such_setting=1", "vm.no_such_setting"),
        ("kernel.shmmax=1", "ipc namespace"),
        ("kernel.core_pattern=|/usr/bin/busybox sh", "program"),
    ],
)
def test_settings_that_cannot_be_are_named(make_pod: PodMaker, setting: str, words: str) -> None:
    with pytest.raises(CriError, match=words):
        make_pod(annotations={SYSCTLS: setting})
