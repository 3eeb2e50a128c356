"""What containers of a pod share with each other, and that they share nothing with the host."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.pods.conftest import PodMaker, list_network
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import HANDLER, Node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Pod, render_pod
from tests.support.leaks import assert_nothing_new, take_inventory

pytestmark = pytest.mark.e2e


def options(**fields: Any) -> pb.NamespaceOption:
    return pb.NamespaceOption(**{"pid": pb.CONTAINER, **fields})


def pod_fields(**fields: Any) -> dict[str, Any]:
    context = pb.LinuxSandboxSecurityContext(namespace_options=options(**fields))
    return {"linux": pb.LinuxPodSandboxConfig(security_context=context)}


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("ipc", True), ("uts", True), ("net", True), ("pid", False), ("mnt", False)],
)
def test_namespaces_of_a_pods_containers(pod: Pod, kind: str, shared: bool) -> None:
    first, second = (pod.run().exec("readlink", f"/proc/self/ns/{kind}") for _ in range(2))
    assert (first == second) is shared


def test_shared_memory_is_the_pods(pod: Pod) -> None:
    first, second = pod.run(), pod.run()
    first.sh("echo shared > /dev/shm/file")
    assert second.sh("cat /dev/shm/file") == "shared"
    first.sh("rm /dev/shm/file")
    assert second.sh("df -m /dev/shm | tail -n 1 | awk '{print $2}'") == "64"


def test_each_container_sees_its_own_processes(pod: Pod) -> None:
    pod.run("sleep", "7654321")
    second = pod.run("sleep", "1234567")
    seen = second.exec("ps", "-o", "pid,args")
    assert "7654321" not in seen
    assert "1 sleep 1234567" in seen


def test_a_pod_may_share_its_processes(make_pod: PodMaker) -> None:
    pod = make_pod(**pod_fields(pid=pb.POD))
    shared = {"namespace_options": options(pid=pb.POD)}
    first = pod.run("sleep", "7654321", **shared)
    second = pod.run("sleep", "1234567", **shared)
    seen = second.exec("ps", "-o", "pid,args")
    assert "sleep 7654321" in seen
    assert "sleep 1234567" in seen
    assert "1 sleep" not in [line.strip() for line in seen.splitlines()]
    # Each can signal the other, and its end is reported as that of the right one.
    second.exec("sh", "-c", "kill -9 $(ps -o pid,args | awk '/[s]leep 765/{print $1}')")
    assert first.wait() == 137
    assert second.state == "RUNNING"
    third = pod.run("sh", "-c", "exit 5", **shared)
    assert third.wait() == 5


def test_a_container_may_share_anothers_processes(make_pod: PodMaker) -> None:
    """As ``kubectl debug --target`` wants it."""
    pod = make_pod()
    target = pod.run("sleep", "7654321")
    joining = {"namespace_options": options(pid=pb.TARGET, target_id=target.id)}
    debugger = pod.run("sleep", "1234567", **joining)
    seen = debugger.exec("ps", "-o", "pid,args")
    assert "1 sleep 7654321" in seen
    assert "sleep 1234567" in seen
    debugger.stop()
    assert target.state == "RUNNING"
    pod.run()
    with pytest.raises(CriError, match="which one cannot be told"):
        pod.run(**joining)


@pytest.mark.parametrize(
    ("field", "word"), [("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")]
)
def test_namespaces_of_the_host_are_refused(node: Node, field: str, word: str) -> None:
    config = render_pod(node.folder / "logs", **pod_fields(**{field: pb.NODE}))
    before = {pod.id for pod in node.cri.list_pods()}
    with pytest.raises(CriError, match=word):
        node.cri.run_pod(config, HANDLER)
    assert {pod.id for pod in node.cri.list_pods()} == before


def test_a_refusal_leaves_nothing(node: Node) -> None:
    before, network = take_inventory(), list_network(node)
    config = render_pod(node.folder / "logs", **pod_fields(pid=pb.NODE))
    with pytest.raises(CriError):
        node.cri.run_pod(config, HANDLER)
    assert_nothing_new(before)
    assert list_network(node) <= network


def test_the_guests_kernel_is_not_the_hosts(pod: Pod) -> None:
    boot = pod.output("cat", "/proc/sys/kernel/random/boot_id").strip()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        assert boot != file.read().strip()
    assert os.uname().release not in pod.output("uname", "-r")
