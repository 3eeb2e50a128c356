"""Privileged containers of pods, however the engine describes them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pods.conftest import FOLDER_PREFIX, PodMaker, remove_all
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import SETTINGS, Node, make_node
from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e

PRIVILEGED = pb.LinuxPodSandboxConfig(
    security_context=pb.LinuxSandboxSecurityContext(privileged=True)
)
LEFT_OUT = "privileged_without_host_devices = true"
LOOP = (
    "truncate -s 1M /tmp/image && losetup /dev/loop0 /tmp/image && losetup -a"
    " && echo by loop > /dev/loop0 && head -n 1 /tmp/image && losetup -d /dev/loop0"
)


def check(container: Container) -> None:
    """Look at the devices of a container that has all of its machine's."""
    nodes = container.sh("find /dev -type b -o -type c").split()
    assert {"/dev/kmsg", "/dev/loop-control", "/dev/fuse", "/dev/net/tun"} <= set(nodes)
    assert container.sh(LOOP) == "/dev/loop0: 0 /tmp/image\nby loop"
    assert "Linux version" in container.sh("head -n 1 /dev/kmsg")
    assert container.sh("mknod /tmp/zero c 1 5 && head -c 3 /tmp/zero | wc -c") == "3"


def test_without_the_hosts_devices(make_pod: PodMaker) -> None:
    """As docs/kubernetes.md has it; a container beside it is not privileged."""
    pod = make_pod(linux=PRIVILEGED)
    check(pod.run(privileged=True))
    plain = pod.run()
    assert "/dev/kmsg" not in plain.sh("find /dev -type b -o -type c").split()
    assert "not permitted" in plain.sh("(head -c 1 /dev/zero; mknod /k c 1 11; cat /k) 2>&1 || :")


@pytest.fixture(scope="module")
def open_node() -> Iterator[Node]:
    """A node whose engine hands over all of the host's devices."""
    assert LEFT_OUT in SETTINGS
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        with make_node(Path(folder), SETTINGS.replace(LEFT_OUT, "")) as node:
            yield node


def test_with_the_hosts_devices(open_node: Node) -> None:
    pod = Pod(open_node, linux=PRIVILEGED)
    try:
        check(pod.run(privileged=True))
    finally:
        remove_all([pod])
