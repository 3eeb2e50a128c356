"""Pods of containerd 1.7 and 2.x: the core of the other modules' tests again."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pods.conftest import FOLDER_PREFIX, remove_all
from tests.pods.test_container_life import (
    test_a_container_that_ended_is_followed_by_another_in_the_same_pod,
    test_exit_codes,
    test_states_of_a_container,
)
from tests.pods.test_exec_and_logs import (
    test_a_rotated_log_goes_on_in_a_new_file,
    test_attach_sees_output_and_gives_input,
    test_exec_on_a_terminal,
    test_exec_sync_returns_both_streams_and_the_code,
)
from tests.pods.test_namespaces import (
    test_namespaces_of_a_pods_containers,
    test_namespaces_of_the_host_are_refused,
)
from tests.support.cri.bed import SETTINGS, SETTINGS_2, Node, make_node
from tests.support.cri.client import Cri
from tests.support.cri.pods import Container, Pod
from tests.support.sandboxes import QEMU, find_pids
from tools import other_debian

__all__ = [
    "test_a_container_that_ended_is_followed_by_another_in_the_same_pod",
    "test_a_rotated_log_goes_on_in_a_new_file",
    "test_attach_sees_output_and_gives_input",
    "test_exec_on_a_terminal",
    "test_exec_sync_returns_both_streams_and_the_code",
    "test_exit_codes",
    "test_namespaces_of_a_pods_containers",
    "test_namespaces_of_the_host_are_refused",
    "test_states_of_a_container",
]

pytestmark = pytest.mark.e2e

# Debian's suite, the version that the test is about, and its settings.
VERSIONS = {"trixie": ("1.7", SETTINGS), "sid": ("2", SETTINGS_2)}


@pytest.fixture(
    scope="module", params=VERSIONS, ids=[f"containerd-{v}" for v, _ in VERSIONS.values()]
)
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with another version of containerd."""
    _, settings = VERSIONS[request.param]
    programs = Path(other_debian.unpack(request.param, ["containerd"])) / "usr/bin"
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        with make_node(Path(folder), settings, programs) as node:
            yield node


@pytest.fixture(scope="module")
def cri(node: Node) -> Cri:
    """The client of the node's runtime."""
    return node.cri


@pytest.fixture(scope="module")
def shared_pod(node: Node) -> Iterator[Pod]:
    """A pod of the node."""
    pod = Pod(node)
    yield pod
    remove_all([pod])


@pytest.fixture(scope="module")
def shared_container(shared_pod: Pod) -> Container:
    """A running container of the pod."""
    return shared_pod.run()


def test_a_pod_is_one_machine(shared_pod: Pod, shared_container: Container) -> None:
    assert len(find_pids(shared_pod.id, QEMU)) == 1
    assert shared_pod.status().runtime_handler == "kata"
    assert f"inet {shared_pod.ip}/" in shared_container.sh("ip addr show eth0")


def test_limits_and_statistics(pod: Pod, cri: Cri) -> None:
    container = pod.run(resources={"memory_limit_in_bytes": 64 << 20})
    assert container.sh("cat /sys/fs/cgroup/memory.max") == str(64 << 20)
    container.sh("dd if=/dev/zero of=/dev/shm/held bs=1M count=8")  # not cached files alone
    assert cri.container_stats(container.id).memory.working_set_bytes.value > 0


def test_the_version_is_the_wanted_one(cri: Cri, request: pytest.FixtureRequest) -> None:
    wanted, _ = VERSIONS[request.node.callspec.params["node"]]
    assert cri.version().runtime_version.removeprefix("v").startswith(f"{wanted}.")
