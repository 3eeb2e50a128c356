"""Which pods get a machine, and what their annotations may change, as operators configure it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pods.conftest import FOLDER_PREFIX, remove_all
from tests.support.configuration import write_configuration
from tests.support.cri.bed import SETTINGS, Node, make_node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Pod, render_pod
from tests.support.sandboxes import QEMU, find_pids

pytestmark = pytest.mark.e2e

PREFIX = "io.katacontainers.config."


@pytest.fixture(scope="module")
def kata_node() -> Iterator[Node]:
    """A node whose default runtime is kata, and which allows two annotations."""
    settings = SETTINGS.replace('default_runtime_name = "runc"', 'default_runtime_name = "kata"')
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        allowed = ["default_memory", "default_vcpu.*"]
        file = write_configuration(Path(folder) / "kata.toml", enable_annotations=allowed)
        with make_node(Path(folder), settings, configuration=file) as node:
            yield node


@pytest.fixture
def pods(kata_node: Node) -> Iterator[list[Pod]]:
    """Pods of that node; nothing may be left of them."""
    made: list[Pod] = []
    yield made
    remove_all(made)


def test_the_default_runtime_gives_every_pod_a_machine(kata_node: Node, pods: list[Pod]) -> None:
    annotations = {f"{PREFIX}hypervisor.default_memory": "300"}
    pods.append(Pod(kata_node, handler="", annotations=annotations))
    assert len(find_pids(pods[0].id, QEMU)) == 1
    text = pods[0].output("sh", "-c", "uname -r; awk '/MemTotal/ {print $2}' /proc/meminfo")
    assert int(text.split()[1]) < 300 << 10
    # A pod of runc beside it, by its handler.
    pods.append(Pod(kata_node, handler="runc"))
    assert find_pids(pods[1].id, QEMU) == []
    assert pods[1].output("uname", "-r").strip() != text.split()[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hypervisor.path", "/bin/false"),
        ("hypervisor.kernel", "/boot/other"),
        ("hypervisor.default_memory_more", "1"),
        ("runtime.disable_guest_seccomp", "true"),
        ("runtime.sandbox_cgroup_only", "true"),
        ("agent.kernel_modules", "dummy"),
        ("hypervisor.default_vcpus", "many"),
        ("hypervisor.no_such_key", "1"),
    ],
)
def test_what_is_not_allowed_or_wrong_is_an_error(kata_node: Node, key: str, value: str) -> None:
    config = render_pod(kata_node.folder / "logs", annotations={PREFIX + key: value})
    before = {pod.id for pod in kata_node.cri.list_pods()}
    with pytest.raises(CriError, match=key.split(".")[1]):
        kata_node.cri.run_pod(config, "kata")
    assert {pod.id for pod in kata_node.cri.list_pods()} == before
    assert kata_node.network.list_reservations() == set()
