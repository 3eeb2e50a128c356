"""Containers of a pod: create, start, stop, remove; several in one machine."""

from __future__ import annotations

import socket
import time

import pytest

from tests.support.cri.client import Cri, CriError
from tests.support.cri.pods import Container, Pod
from tests.support.sandboxes import QEMU, find_pids

pytestmark = pytest.mark.e2e


def test_states_of_a_container(pod: Pod, cri: Cri) -> None:
    container = pod.create("sh", "-c", "read line", stdin=True, stdin_once=True)
    assert container.state == "CREATED"
    container.start()
    assert container.state == "RUNNING"
    with cri.attach(container.id, stdin=True) as session:
        session.send(b"end\n")
        assert container.wait() == 0
    status = container.status()
    assert status.created_at <= status.started_at < status.finished_at
    assert status.reason == "Completed"
    container.remove()
    with pytest.raises(CriError, match="NOT_FOUND"):
        container.status()
    container.remove()


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("sh -c 'kill -SEGV $$'; exit $?", 139), ("nothing", 127)],
)
def test_exit_codes(pod: Pod, script: str, code: int) -> None:
    container = pod.run("sh", "-c", script)
    assert container.wait() == code
    assert container.status().reason == ("Completed" if code == 0 else "Error")


def test_a_container_that_ended_is_followed_by_another_in_the_same_pod(pod: Pod) -> None:
    machine = find_pids(pod.id, QEMU)
    for _ in range(3):
        assert pod.output("echo", "again") == "again\n"
    assert find_pids(pod.id, QEMU) == machine


def test_one_container_ends_and_the_others_go_on(pod: Pod) -> None:
    first, second = pod.run(), pod.run()
    assert len(find_pids(pod.id, QEMU)) == 1
    first.stop()
    assert first.wait() == 137
    assert second.exec("echo", "alive") == "alive\n"
    first.remove()
    assert second.exec("echo", "alive") == "alive\n"


def test_stop_kills_what_does_not_listen(pod: Pod) -> None:
    container = pod.run("sh", "-c", "trap '' TERM; while true; do sleep 0.1; done")
    started = time.monotonic()
    container.stop(timeout_s=1)
    assert 1 <= time.monotonic() - started < 5
    assert container.wait() == 137


def test_stop_lets_a_handler_choose_the_code(pod: Pod) -> None:
    container = pod.run("sh", "-c", "trap 'exit 7' TERM; echo up; while true; do sleep 0.1; done")
    container.wait_log("up")
    container.stop(timeout_s=20)
    assert container.wait() == 7
    container.stop(timeout_s=1)


def test_removing_a_running_container_is_forced(pod: Pod, cri: Cri) -> None:
    container = pod.run("sleep", "1000000")
    container.remove()
    assert container.id not in {known.id for known in cri.list_containers(pod.id)}


def test_a_container_that_was_never_started_is_removed(pod: Pod) -> None:
    container = pod.create("true")
    container.remove()


def test_a_program_that_does_not_exist_is_named(pod: Pod) -> None:
    container = pod.create("/no/such/program")
    with pytest.raises(CriError, match="/no/such/program"):
        container.start()
    assert container.state == "EXITED"


def test_environment_folder_arguments_and_labels(pod: Pod, cri: Cri) -> None:
    container = pod.run(
        "sh", "-c", 'echo "$GREETING $PWD $0 $*"',
        args=["zero", "one two"],
        envs=[{"key": "GREETING", "value": "hello all"}],
        working_dir="/tmp",
        labels={"app": "x"},
    )  # fmt: skip
    assert container.wait() == 0
    assert container.log() == "hello all /tmp zero one two\n"
    assert dict(container.status().labels) == {"app": "x"}


def test_a_folder_to_work_in_is_made(pod: Pod) -> None:
    assert pod.output("pwd", working_dir="/made/for/me") == "/made/for/me\n"


def test_each_container_has_its_own_files(pod: Pod) -> None:
    first, second = pod.run(), pod.run()
    first.sh("echo mine > /tmp/file")
    with pytest.raises(AssertionError):
        second.exec("cat", "/tmp/file")


def test_probes_by_exec_and_by_tcp(pod: Pod, cri: Cri) -> None:
    """What kubelet asks of a container: whether it lives, and whether it is ready."""
    serve = "until [ -e /go ]; do sleep 0.1; done; touch /ready; httpd -f -p 8077"
    container = pod.run("sh", "-c", serve)

    def is_ready() -> bool:
        return cri.exec_sync(container.id, ["test", "-e", "/ready"], 5).exit_code == 0

    def is_listening() -> bool:
        try:
            with socket.create_connection((pod.ip, 8077), timeout=5):
                return True
        except ConnectionRefusedError:
            return False

    assert (is_ready(), is_listening()) == (False, False)
    container.sh("touch /go")
    deadline = time.monotonic() + 20
    while not (is_ready() and is_listening()):
        assert time.monotonic() < deadline, "not ready"
        time.sleep(0.1)
    container.stop()
    with pytest.raises(CriError, match="CONTAINER_EXITED"):
        is_ready()
    assert not is_listening()


def test_a_termination_message_is_seen_on_the_host(pod: Pod) -> None:
    message = pod.logs / "termination-log"
    message.write_text("")
    mount = {"container_path": "/dev/termination-log", "host_path": str(message)}
    container = pod.run("sh", "-c", "echo -n tired > /dev/termination-log", mounts=[mount])
    assert container.wait() == 0
    assert message.read_text() == "tired"


def test_statuses_are_of_the_right_container(shared_container: Container, pod: Pod) -> None:
    container = pod.run("false")
    assert container.wait() == 1
    assert shared_container.state == "RUNNING"
