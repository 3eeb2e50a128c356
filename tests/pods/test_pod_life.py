"""A pod's sandbox: run, status, list, stop, remove."""

from __future__ import annotations

import pytest

from tests.pods.conftest import PodMaker
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import Node
from tests.support.cri.client import Cri, CriError
from tests.support.cri.pods import Pod, render_pod
from tests.support.sandboxes import QEMU, SHIM, assert_gone, find_pids, kill

pytestmark = pytest.mark.e2e


def states(cri: Cri) -> dict[str, str]:
    return {pod.id: pb.PodSandboxState.Name(pod.state) for pod in cri.list_pods()}


def test_a_pod_shows_its_runtime_and_what_it_was_given(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod(
        labels={"app": "shown"}, annotations={"note": "kept"}, hostname="a-host-of-its-own"
    )
    status = pod.status()
    assert status.state == pb.SANDBOX_READY
    assert status.runtime_handler == "kata"
    assert status.metadata == pod.config.metadata
    assert dict(status.labels) == {"app": "shown"}
    assert dict(status.annotations) == {"note": "kept"}
    (listed,) = cri.list_pods({"app": "shown"})
    assert (listed.id, listed.runtime_handler) == (pod.id, "kata")
    assert pod.output("hostname") == "a-host-of-its-own\n"


def test_a_pod_is_one_machine_with_one_shim(pod: Pod) -> None:
    for _ in range(2):
        pod.run()
    assert len(find_pids(pod.id, QEMU)) == 1
    assert len(find_pids(pod.id, SHIM)) == 1


def test_stopping_ends_all_containers_and_the_machine(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    containers = [pod.run("sleep", "1000000") for _ in range(2)]
    cri.stop_pod(pod.id)
    assert states(cri)[pod.id] == "SANDBOX_NOTREADY"
    assert [container.state for container in containers] == ["EXITED"] * 2
    assert_gone(pod.id, pod.node.containerd.address, "k8s.io")
    cri.stop_pod(pod.id)
    cri.remove_pod(pod.id)
    assert pod.id not in states(cri)
    with pytest.raises(CriError, match="NOT_FOUND"):
        pod.status()
    cri.remove_pod(pod.id)


def test_removing_a_running_pod_is_forced(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    container = pod.run("sleep", "1000000")
    cri.remove_pod(pod.id)
    assert pod.id not in states(cri)
    assert container.id not in {known.id for known in cri.list_containers()}
    assert_gone(pod.id, pod.node.containerd.address, "k8s.io")


def test_stopping_and_removing_again_is_no_error(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    container = pod.run()
    for _ in range(2):
        container.stop()
    for _ in range(2):
        container.remove()
    for _ in range(2):
        cri.stop_pod(pod.id)
    for _ in range(2):
        cri.remove_pod(pod.id)


def test_a_stopped_pod_takes_no_containers(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    created = pod.create("true")
    cri.stop_pod(pod.id)
    with pytest.raises(CriError):
        created.start()
    with pytest.raises(CriError):
        pod.create("true")


def test_a_machine_that_dies_turns_the_pod_not_ready(make_pod: PodMaker, cri: Cri) -> None:
    pod = make_pod()
    container = pod.run("sleep", "1000000")
    kill(pod.id, QEMU)
    assert container.wait() in (137, 255)
    pod.wait_not_ready()


def test_the_annotation_for_untrusted_workloads_selects_kata(node: Node) -> None:
    pod = Pod(node, handler="", annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    try:
        assert len(find_pids(pod.id, QEMU)) == 1
    finally:
        pod.remove()
    assert_gone(pod.id, node.containerd.address, "k8s.io")


def test_a_pod_of_the_same_name_is_refused(pod: Pod, cri: Cri) -> None:
    with pytest.raises(CriError, match="reserve"):
        cri.run_pod(pod.config, "kata")


def test_an_unknown_handler_is_refused(node: Node, cri: Cri) -> None:
    with pytest.raises(CriError, match="nonsense"):
        cri.run_pod(render_pod(node.folder / "logs"), "nonsense")


def test_an_annotation_that_is_not_allowed_is_refused(node: Node, cri: Cri) -> None:
    key = "io.katacontainers.config.hypervisor.path"
    config = render_pod(node.folder / "logs", annotations={key: "/bin/false"})
    before = set(states(cri))
    with pytest.raises(CriError, match=key):
        cri.run_pod(config, "kata")
    assert set(states(cri)) == before


def test_an_allowed_annotation_is_obeyed(make_pod: PodMaker) -> None:
    key = "io.katacontainers.config.hypervisor.kernel_params"
    pod = make_pod(annotations={key: "kata.tests=1"})
    assert "kata.tests=1" in pod.output("cat", "/proc/cmdline")
