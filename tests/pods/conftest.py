"""One node for all tests of a session, and a pod for those that can share one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cni import list_namespaces, list_rules
from tests.support.cri import servers_image
from tests.support.cri.bed import Node, make_node
from tests.support.cri.client import Cri
from tests.support.cri.pods import Container, Pod
from tests.support.factory import end_factory
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.sandboxes import assert_gone

# Paths of sockets are limited to 108 bytes, so not below pytest's own folder.
FOLDER_PREFIX = "kata-pods-"

PodMaker = Callable[..., Pod]


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """A node with containerd, a network and images."""
    end_factory()
    before = take_inventory() | list_rules() | list_namespaces()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        with make_node(Path(folder)) as node:
            yield node
    assert_nothing_new(before)
    assert not (list_rules() | list_namespaces()) - before


@pytest.fixture(scope="session")
def cri(node: Node) -> Cri:
    """The client of the node's runtime."""
    return node.cri


@pytest.fixture(scope="session")
def servers(node: Node) -> str:
    """The name of an image with nginx, dnsmasq and inotifywait."""
    node.import_image(servers_image.NAME, servers_image.servers_layer(), servers_image.SETTINGS)
    return servers_image.NAME


@pytest.fixture(scope="session")
def shared_pod(node: Node) -> Iterator[Pod]:
    """A pod to which tests add containers, and which they leave as it is."""
    pod = Pod(node)
    yield pod
    remove_all([pod])


@pytest.fixture(scope="session")
def shared_container(shared_pod: Pod) -> Container:
    """A running container that tests use and do not change."""
    return shared_pod.run()


@pytest.fixture
def pod(shared_pod: Pod) -> Iterator[Pod]:
    """The shared pod; containers that the test leaves are removed."""
    before = {container.id for container in shared_pod.cri.list_containers(shared_pod.id)}
    yield shared_pod
    for container in shared_pod.cri.list_containers(shared_pod.id):
        if container.id not in before:
            shared_pod.cri.remove(container.id)


@pytest.fixture
def make_pod(node: Node) -> Iterator[PodMaker]:
    """Start pods of the test's own; they are removed, and then nothing of them may be left."""
    pods: list[Pod] = []

    def make(**fields: Any) -> Pod:
        pods.append(Pod(node, **fields))
        return pods[-1]

    yield make
    remove_all(pods)


def remove_all(pods: list[Pod]) -> None:
    """Remove pods, whatever state they are in, and look for what they left."""
    used = {pod.id: find_network(pod) for pod in pods}
    for pod in pods:
        pod.remove()
    for pod in pods:
        address = pod.node.containerd.address
        assert_gone(pod.id, address, "k8s.io")
        deadline = time.monotonic() + 5
        while left := used[pod.id] & list_network(pod.node):
            assert time.monotonic() < deadline, f"left behind: {sorted(left)}"
            time.sleep(0.1)


def list_network(node: Node) -> set[str]:
    """Return what pods have on the host's network."""
    found = node.network.list_reservations() | list_namespaces() | node.network.list_ports()
    return found | list_rules()


def find_network(pod: Pod) -> set[str]:
    """Return what a pod has on the host's network: addresses, namespace, rules."""
    if pod.id not in {known.id for known in pod.cri.list_pods()}:
        return set()
    status = pod.status()
    addresses = {status.network.ip, *(entry.ip for entry in status.network.additional_ips)}
    rules = {rule for rule in list_rules() if pod.id in rule}
    namespace = pod.namespace()
    return addresses | rules | ({Path(namespace).name} if namespace else set())
