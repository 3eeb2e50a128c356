"""Terminals of containers and execs."""

from __future__ import annotations

import signal

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from tests.guest.harness import Host


@pytest.fixture(params=["native", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both: what can be seen of a process is the same."""
    return str(request.param)


def test_terminal_of_a_container(host: Host) -> None:
    host.run("c1", "sh", "-c", "tty; stty size; read line; echo got $line", terminal=True)
    assert "/dev/pts/0" in host.read_until("\n", "c1")
    host.write(b"hello\n", "c1")
    assert "got hello" in host.read_until("got hello", "c1")
    assert host.wait("c1") == 0
    assert host.read_all("c1").strip() == b""


def test_size_and_resize(host: Host) -> None:
    spec = host.spec(
        "sh", "-c", "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done", terminal=True
    )
    spec["process"]["consoleSize"] = {"height": 30, "width": 100}
    host.create("c1", spec)
    host.start("c1")
    host.read_until("30 100", "c1")
    host.resize(44, 155, "c1")
    host.read_until("44 155", "c1")


def test_ctrl_c(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    host.execute("c1", "e1", "sh", "-c", "echo ready; sleep 1000", terminal=True)
    host.read_until("ready", "c1", "e1")
    host.write(b"\x03", "c1", "e1")
    assert host.wait("c1", "e1") == 128 + signal.SIGINT


def test_ctrl_d_ends_input_and_close_does_not(host: Host) -> None:
    host.run("c1", "cat", terminal=True)
    host.close_stdin("c1")
    host.write(b"still\n", "c1")
    host.read_until("still\r\nstill", "c1")
    host.write(b"\x04", "c1")
    assert host.wait("c1") == 0


def test_last_output_is_complete(host: Host) -> None:
    host.run("c1", "sh", "-c", "stty -opost; head -c 20000 /dev/zero | tr '\\0' x", terminal=True)
    assert host.read_all("c1") == b"x" * 20000
    assert host.wait("c1") == 0


def test_no_separate_errors(host: Host) -> None:
    host.run("c1", "sleep", "1000", terminal=True)
    with pytest.raises(RpcError) as caught:
        host.read("c1", method="ReadStderr")
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_no_resize_without_a_terminal(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.resize(10, 10, "c1")
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_missing_command(host: Host) -> None:
    with pytest.raises(RpcError, match="not found"):
        host.create("c1", host.spec("nope", terminal=True))
