"""Parts of pods, and containerd itself, are killed while pods run; many pods, together and in turn.

The number of pods one after another is set by KATA_TEST_PODS.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.mountinfo import list_mount_points
from tests.pods.conftest import FOLDER_PREFIX, PodMaker, list_network, remove_all
from tests.support.cri.bed import Node, make_node, wait_ready
from tests.support.cri.pods import Container, Pod
from tests.support.leaks import find_processes, take_inventory
from tests.support.sandboxes import QEMU, SHIM, VIRTIOFSD, assert_gone, find_pids, kill

pytestmark = pytest.mark.e2e

AT_ONCE = 12
ONE_BY_ONE = int(os.environ.get("KATA_TEST_PODS", "6"))


# Parts of one pod are killed.


@pytest.mark.parametrize("part", [QEMU, VIRTIOFSD, SHIM])
def test_a_pod_that_lost_a_part_ends_and_can_be_removed(
    make_pod: PodMaker, part: str, shared_container: Container
) -> None:
    pod = make_pod(port_mappings=[{"container_port": 80, "host_port": 18099}])
    container = pod.run()
    kill(pod.id, part)
    pod.wait_not_ready(30)
    assert container.wait() in (137, 255)
    assert shared_container.sh("echo fine") == "fine"
    pod.remove()
    assert_gone(pod.id, pod.node.containerd.address, "k8s.io")


def test_a_pod_whose_kernel_panics_ends_and_tells_why(make_pod: PodMaker) -> None:
    """As it does when the agent ends, which is the guest's first process."""
    pod = make_pod(linux={"security_context": {"privileged": True}})
    container = pod.run(privileged=True)
    container.exec("sh", "-c", "(sleep 0.5; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")
    pod.wait_not_ready(30)
    assert container.wait() in (137, 255)
    lines = [line for line in pod.node.containerd.log.splitlines() if pod.id in line]
    assert any("virtual machine lost" in line and "panic" in line for line in lines)


def test_a_container_ends_while_its_file_server_is_slow(make_pod: PodMaker) -> None:
    """What the server has not answered yet must not break the guest's kernel."""
    pod = make_pod()
    other = pod.run()
    container = pod.run("sh", "-c", "while true; do true; done")
    servers = find_pids(pod.id, VIRTIOFSD)
    ending = threading.Thread(target=container.stop)
    try:
        for pid in servers:
            os.kill(pid, signal.SIGSTOP)
        ending.start()
        time.sleep(3)
    finally:
        for pid in servers:
            os.kill(pid, signal.SIGCONT)
    ending.join(60)
    assert container.wait() == 137
    container.remove()
    assert other.sh("echo fine") == "fine"
    console = Path(f"/run/kata/{pod.id}/console.log").read_text(errors="replace")
    assert "BUG" not in console
    assert "Busy inodes" not in console


def test_a_pod_that_lost_everything_can_be_removed(make_pod: PodMaker) -> None:
    pod = make_pod()
    pod.run()
    for part in (SHIM, QEMU, VIRTIOFSD):
        for pid in find_pids(pod.id, part):
            os.kill(pid, signal.SIGKILL)
    pod.wait_not_ready(30)


# containerd is stopped and started.


@pytest.fixture(scope="module")
def own_node() -> Iterator[Node]:
    """A node whose containerd tests may kill."""
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        with make_node(Path(folder)) as node:
            yield node


@pytest.fixture
def pods(own_node: Node) -> Iterator[list[Pod]]:
    """Pods of that node; nothing may be left of them."""
    made = [Pod(own_node) for _ in range(2)]
    yield made
    remove_all(made)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_pods_outlive_containerd(own_node: Node, pods: list[Pod], signum: int) -> None:
    first, second = pods
    counter = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.3; done"
    running = first.run("sh", "-c", counter)
    running.wait_log("line 2\n")
    ending = first.run("sh", "-c", "sleep 2; exit 7")
    lost = second.run()
    own_node.containerd.stop(signum)
    kill(second.id, QEMU)
    kept = find_pids(first.id, QEMU)
    time.sleep(4)
    own_node.containerd.start()
    wait_ready(own_node.cri)
    assert ending.wait() == 7
    assert running.state == "RUNNING"
    assert find_pids(first.id, QEMU) == kept
    assert running.sh("echo fine") == "fine"
    again = len(running.lines())
    running.wait_log(f"line {again + 3}\n")
    assert first.output("echo", "new") == "new\n"
    second.wait_not_ready()
    assert lost.wait() in (137, 255)


# Many pods.


def test_many_pods_at_once(node: Node) -> None:
    pods: list[Pod] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            pod = Pod(node)
            pods.append(pod)
            assert pod.run().sh("hostname") == pod.config.hostname
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    threads = [threading.Thread(target=run) for _ in range(AT_ONCE)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len({pod.ip for pod in pods}) == AT_ONCE
    finally:
        remove_all(pods)


def test_pods_one_after_another_leave_nothing(node: Node) -> None:
    live_and_die(node)  # what is made once for all pods
    before = take_counts(node)
    for _ in range(ONE_BY_ONE):
        live_and_die(node)
    deadline = time.monotonic() + 10
    while (after := take_counts(node)) != before:
        assert time.monotonic() < deadline, (before, after)
        time.sleep(0.2)


def live_and_die(node: Node) -> None:
    pod = Pod(node, port_mappings=[{"container_port": 80, "host_port": 18098}])
    pod.run().exec("true")
    remove_all([pod])


def take_counts(node: Node) -> dict[str, object]:
    """Return what could grow with the number of pods that have been."""
    return {
        "processes": len(find_processes()),
        "mounts": len(list_mount_points()),
        "network": sorted(list_network(node)),
        "links": sorted(os.listdir("/sys/class/net")),
        "files": sorted(line for line in take_inventory() if line.startswith("file ")),
        "containerd's descriptors": count_fds(node.containerd.pid),
    }


def count_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_a_shim_does_not_grow_with_what_has_ended(make_pod: PodMaker) -> None:
    pod = make_pod()
    container = pod.run()
    (shim,) = find_pids(pod.id, SHIM)

    def use() -> None:
        pod.output("echo", "x")
        container.sh("true")

    use()
    before = take_shim_counts(shim)
    for _ in range(10):
        use()
    deadline = time.monotonic() + 20  # idle threads leave after a while
    while (after := take_shim_counts(shim)) > before:
        assert time.monotonic() < deadline, (before, after)
        time.sleep(0.2)


def take_shim_counts(pid: int) -> tuple[int, int, int]:
    """Return the numbers of a process's descriptors, mounts and threads."""
    mounts = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return count_fds(pid), mounts, len(os.listdir(f"/proc/{pid}/task"))
