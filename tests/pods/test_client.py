"""The tests' client and node with runc: what fails here is no fault of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pods.conftest import remove_all
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import Node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Pod

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def runc_pod(node: Node) -> Iterator[Pod]:
    pod = Pod(node, handler="runc")
    yield pod
    remove_all([pod])


def test_life(runc_pod: Pod) -> None:
    assert runc_pod.status().state == pb.SANDBOX_READY
    container = runc_pod.run("sh", "-c", "echo a; echo b >&2; exit 7")
    assert container.wait() == 7
    # The two streams are copied side by side.
    assert sorted(container.lines()) == [("stderr", "F", "b"), ("stdout", "F", "a")]
    with pytest.raises(CriError, match="NOT_FOUND"):
        runc_pod.cri.container_status("nothing")


def test_exec(runc_pod: Pod) -> None:
    container = runc_pod.run()
    done = runc_pod.cri.exec_sync(container.id, ["sh", "-c", "echo a; echo b >&2; exit 3"])
    assert (done.stdout, done.stderr, done.exit_code) == (b"a\n", b"b\n", 3)
    with runc_pod.cri.exec(container.id, ["sh", "-c", "read x; echo =$x; exit 4"]) as session:
        session.send(b"hello\n")
        assert session.wait() == 4
        assert session.stdout == b"=hello\n"


def test_terminal(runc_pod: Pod) -> None:
    container = runc_pod.run("sh", stdin=True, tty=True)
    with runc_pod.cri.attach(container.id, tty=True, stdin=True) as session:
        session.resize(77, 33)
        session.send(b"stty size; exit 5\n")
        session.read_until(b"33 77")
        assert container.wait() == 5


def test_port_forward(runc_pod: Pod) -> None:
    server = runc_pod.run("httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/etc")
    server.sh("until nc -w 1 127.0.0.1 8080 </dev/null; do sleep 0.1; done")
    with runc_pod.cri.port_forward(runc_pod.id, 8080) as connection:
        connection.send(b"GET /group HTTP/1.0\r\n\r\n")
        assert b"root:x:0:" in connection.read_all()
