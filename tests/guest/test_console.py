"""Programs of the guest itself, which the host names without a container."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from tests.guest.harness import Host

Ended = Callable[[str], int]


@pytest.fixture
def ended(host: Host) -> Ended:
    """Return the status of a program, and take all that is left of it, as the host does."""

    def take(exec_id: str) -> int:
        status = host.wait("", exec_id)
        for stream in ("ReadStdout", "ReadStderr"):
            try:
                host.read_all("", exec_id, stream)
            except RpcError:
                pass  # a terminal's errors, or the program is forgotten by now
        return status

    return take


def test_a_program_and_its_status(host: Host, ended: Ended) -> None:
    host.execute(
        "", "e1", "sh", "-c", "echo out; echo err >&2; echo $NAME-$HOME; exit 3", env=["NAME=x"]
    )
    assert host.read_all("", "e1") == b"out\nx-/\n"
    assert host.read_all("", "e1", "ReadStderr") == b"err\n"
    assert ended("e1") == 3


def test_it_is_no_container(host: Host, ended: Ended) -> None:
    """It sees what the agent sees, beside whatever containers there are."""
    host.run("c1", "sleep", "1000")
    host.execute("", "e1", "sh", "-c", "readlink /proc/self/ns/pid /proc/$PPID/ns/pid")
    own, agents = host.read_all("", "e1").split()
    assert own == agents
    ended("e1")


def test_what_only_a_shell_knows(host: Host, ended: Ended) -> None:
    host.execute("", "e1", "command", "-v", "cd")
    assert host.read_all("", "e1") == b"cd\n"
    assert ended("e1") == 0
    host.execute("", "e3", "tool", "1", env=["PATH=/nowhere:/"])
    assert ended("e3") == 127
    host.execute("", "e2", "no-such-program", "x")
    assert ended("e2") == 127


def test_input_goes_in(host: Host, ended: Ended) -> None:
    host.execute("", "e1", "cat")
    host.write(b"words", "", "e1")
    host.close_stdin("", "e1")
    assert host.read_all("", "e1") == b"words"
    assert ended("e1") == 0


def test_a_terminal(host: Host, ended: Ended) -> None:
    host.execute("", "e1", "sh", "-c", "tty; stty size; read line; stty size", terminal=True)
    assert host.read_until("0 0", "", "e1").startswith("/dev/pts/")
    host.resize(30, 90, "", "e1")
    host.write(b"\n", "", "e1")
    assert host.read_until("30 90", "", "e1")
    assert ended("e1") == 0


def test_a_terminal_controls(host: Host, ended: Ended) -> None:
    """What is typed as an interrupt interrupts."""
    script = "trap 'exit 130' INT; echo ready; while :; do sleep 0.1; done"
    host.execute("", "e1", "sh", "-c", script, terminal=True)
    host.read_until("ready", "", "e1")
    host.write(b"\x03", "", "e1")
    assert ended("e1") == 128 + signal.SIGINT


def test_a_terminal_for_what_is_no_program(host: Host, ended: Ended) -> None:
    host.execute("", "e1", "/etc", terminal=True)
    assert "/etc" in host.read_until("denied", "", "e1")
    assert ended("e1") == 126


def test_signals(host: Host, ended: Ended) -> None:
    host.execute("", "e1", "sleep", "1000")
    host.signal(signal.SIGKILL, "", "e1")
    assert ended("e1") == 137
    for number in (signal.SIGKILL, signal.SIGTERM):
        with pytest.raises(RpcError) as refused:
            host.signal(number, "")
        assert refused.value.code == Code.INVALID_ARGUMENT


def test_only_programs_run_in_it(host: Host) -> None:
    for call in (host.pause, host.remove, host.start):
        with pytest.raises(RpcError):
            call("")
    with pytest.raises(RpcError) as missing:
        host.read("", "e1")
    assert missing.value.code == Code.NOT_FOUND
