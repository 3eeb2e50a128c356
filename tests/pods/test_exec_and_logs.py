"""Streams of containers: exec, attach, terminals and log files."""

from __future__ import annotations

import re
import time

import pytest

from tests.support.cri.client import Cri, CriError
from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e


def test_exec_sync_returns_both_streams_and_the_code(cri: Cri, shared_container: Container) -> None:
    script = "echo out; echo err >&2; exit 3"
    done = cri.exec_sync(shared_container.id, ["sh", "-c", script])
    assert (done.stdout, done.stderr, done.exit_code) == (b"out\n", b"err\n", 3)


def test_exec_sync_carries_much_output(cri: Cri, shared_container: Container) -> None:
    done = cri.exec_sync(shared_container.id, ["sh", "-c", "yes 0123456 | head -c 2000000"])
    assert done.stdout == b"0123456\n" * 250000


def test_exec_sync_ends_what_takes_too_long(cri: Cri, shared_container: Container) -> None:
    started = time.monotonic()
    with pytest.raises(CriError, match="DEADLINE_EXCEEDED"):
        cri.exec_sync(shared_container.id, ["sleep", "4321"], timeout_s=1)
    assert time.monotonic() - started < 10
    assert "4321" not in shared_container.exec("ps", "-o", "args")


def test_exec_of_a_program_that_does_not_exist_is_named(
    cri: Cri, shared_container: Container
) -> None:
    with pytest.raises(CriError, match="/no/such/program"):
        cri.exec_sync(shared_container.id, ["/no/such/program"])


def test_exec_in_a_container_that_ended_is_refused(pod: Pod, cri: Cri) -> None:
    container = pod.run("true")
    container.wait()
    with pytest.raises(CriError, match="EXITED"):
        cri.exec_sync(container.id, ["true"])


def test_exec_with_streams(cri: Cri, shared_container: Container) -> None:
    script = "while read line; do echo =$line; echo !$line >&2; [ $line = end ] && exit 4; done"
    with cri.exec(shared_container.id, ["sh", "-c", script]) as session:
        session.send(b"one\n")
        session.read_until(b"=one\n")
        session.send(b"end\n")
        assert session.wait() == 4
        assert session.stdout == b"=one\n=end\n"
        assert session.stderr == b"!one\n!end\n"


def test_exec_on_a_terminal(cri: Cri, shared_container: Container) -> None:
    with cri.exec(shared_container.id, ["sh"], tty=True) as session:
        session.resize(91, 17)
        session.read_until(b"/ # ")
        session.send(b"tty; stty size\n")
        session.read_until(b"17 91\r\n/ # ")
        assert b"/dev/pts/" in session.stdout
        session.resize(101, 27)
        session.send(b"stty size\n")
        session.read_until(b"27 101\r\n/ # ")
        session.send(b"\x04")
        assert session.wait() == 0


def test_ctrl_c_on_a_terminal_interrupts(cri: Cri, shared_container: Container) -> None:
    with cri.exec(shared_container.id, ["sh", "-c", "echo up; sleep 1000"], tty=True) as session:
        session.read_until(b"up")
        session.send(b"\x03")
        assert session.wait() == 130


def test_attach_sees_output_and_gives_input(pod: Pod, cri: Cri) -> None:
    container = pod.run("sh", "-c", "while read line; do echo =$line; done", stdin=True)
    with cri.attach(container.id, stdin=True) as session:
        session.send(b"one\n")
        session.read_until(b"=one\n")
    # Another client takes up where the first left.
    with cri.attach(container.id, stdin=True) as session:
        session.send(b"two\n")
        session.read_until(b"=two\n")
    assert container.state == "RUNNING"
    assert container.wait_log("=two\n") == "=one\n=two\n"


def test_attach_to_a_terminal(pod: Pod, cri: Cri) -> None:
    container = pod.run("sh", stdin=True, tty=True)
    with cri.attach(container.id, tty=True, stdin=True) as session:
        session.resize(77, 33)
        session.send(b"stty size; exit 5\n")
        session.read_until(b"33 77")
        assert container.wait() == 5


def test_two_clients_see_the_same_output(pod: Pod, cri: Cri) -> None:
    container = pod.run("sh", "-c", "while true; do echo tick; sleep 0.1; done")
    with cri.attach(container.id) as first, cri.attach(container.id) as second:
        first.read_until(b"tick\n")
        second.read_until(b"tick\n")


def test_a_log_has_times_streams_and_whole_lines(pod: Pod) -> None:
    container = pod.run("sh", "-c", "echo out; echo err >&2; echo -n part")
    assert container.wait() == 0
    lines = sorted(container.lines())
    # The streams are copied side by side; a last line without an end counts as a part or whole.
    assert [(stream, text) for stream, _, text in lines] == [
        ("stderr", "err"),
        ("stdout", "out"),
        ("stdout", "part"),
    ]
    first = container.log_file.read_text().split()[0]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+(Z|[+-]\d\d:\d\d)", first)


def test_a_long_line_is_logged_in_parts(pod: Pod) -> None:
    container = pod.run("sh", "-c", "head -c 40000 /dev/zero | tr '\\0' x; echo")
    assert container.wait() == 0
    lines = container.lines()
    assert [tag for _, tag, _ in lines] == ["P", "P", "F"]
    assert "".join(text for _, _, text in lines) == "x" * 40000


def test_all_output_before_the_end_is_logged(pod: Pod) -> None:
    container = pod.run("sh", "-c", "seq 1 20000")
    assert container.wait() == 0
    assert container.log() == "".join(f"{number}\n" for number in range(1, 20001))


def test_a_rotated_log_goes_on_in_a_new_file(pod: Pod, cri: Cri) -> None:
    script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"
    container = pod.run("sh", "-c", script)
    container.wait_log("3\n")
    old = container.log_file.rename(f"{container.log_file}.1")
    cri.reopen_log(container.id)
    while len(container.lines()) < 5:
        time.sleep(0.05)
    container.stop()
    container.wait()
    moved = [int(line.split()[-1]) for line in old.read_text().splitlines()]
    fresh = [int(text) for _, _, text in container.lines()]
    assert moved + fresh == list(range(1, fresh[-1] + 1))


def test_the_log_of_a_container_that_ended_is_not_reopened(pod: Pod, cri: Cri) -> None:
    container = pod.run("true")
    container.wait()
    with pytest.raises(CriError, match="not running"):
        cri.reopen_log(container.id)
