"""What goes in and out of a container: large data, ends of input, terminals."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pty
import re
import select
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable

import pytest

from kata.rpc.client import RpcError
from kata.rpc.pb import empty_pb2, task_pb2
from tests.support.containerd import IMAGE, RUNTIME, TIMEOUT_S, Containerd

pytestmark = pytest.mark.e2e

MEBI = 1 << 20


def shim_rss(containerd: Containerd, name: str) -> int:
    """Return the resident bytes of a container's shim."""
    client = containerd.shim(name)
    answer = client.call(
        "containerd.task.v2.Task/Connect",
        task_pb2.ConnectRequest(id=name),
        task_pb2.ConnectResponse,
        10,
    )
    client.close()
    with open(f"/proc/{answer.shim_pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def close_input(containerd: Containerd, name: str, exec_id: str) -> None:
    """Tell a shim that there is no more input, which ctr 1.6 does not in all cases."""
    client = containerd.shim(name)
    request = task_pb2.CloseIORequest(id=name, exec_id=exec_id, stdin=True)
    client.call("containerd.task.v2.Task/CloseIO", request, empty_pb2.Empty, 10)
    client.close()


def test_50_mb_through_stdin_of_an_exec(containerd: Containerd, shared_name: str) -> None:
    data = os.urandom(50 * MEBI)
    done = containerd.exec(shared_name, "sha256sum", input=data, timeout=300)
    assert done.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_50_mb_through_stdin_of_a_run(containerd: Containerd, name: str) -> None:
    # ctr does not pass the end of input on for a run, so this closes the input by CloseIO.
    data = os.urandom(50 * MEBI)
    command = containerd.command(
        "run", "--runtime", RUNTIME, "--rm", IMAGE, name, "sha256sum"
    )  # fmt: skip
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        running.stdin.write(data)
        running.stdin.close()
        close_input(containerd, name, "")
        assert running.stdout is not None
        output = running.stdout.read()
    assert output.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_200_mb_of_stdout_keep_the_shims_memory(containerd: Containerd, shared_name: str) -> None:
    block = os.urandom(MEBI)
    containerd.exec(shared_name, "sh", "-c", "cat > /tmp/block", input=block)
    before = shim_rss(containerd, shared_name)
    script = "i=0; while [ $i -lt 200 ]; do cat /tmp/block; i=$((i+1)); done"
    arguments = ["task", "exec", "--exec-id", "big", shared_name, "sh", "-c", script]
    digest, expected, peak = hashlib.sha256(), hashlib.sha256(), before
    with subprocess.Popen(containerd.command(*arguments), stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        for number in range(200):
            digest.update(running.stdout.read(MEBI))
            expected.update(block)
            if number % 16 == 0:
                peak = max(peak, shim_rss(containerd, shared_name))
        assert running.stdout.read() == b""
    assert digest.hexdigest() == expected.hexdigest()
    assert peak - before < 8 * MEBI


def test_end_of_input_reaches_an_exec(containerd: Containerd, shared_name: str) -> None:
    assert containerd.exec(shared_name, "cat", input=b"some").stdout == b"some"


def test_input_that_is_empty_ends(containerd: Containerd, shared_name: str) -> None:
    command = containerd.command("task", "exec", "--exec-id", "empty", shared_name, "cat")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        running.stdin.close()
        deadline = time.monotonic() + TIMEOUT_S
        while running.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(RpcError):  # until the exec is there
                close_input(containerd, shared_name, "empty")
            time.sleep(0.1)
        assert running.returncode == 0


class Terminal:
    """A ctr process on a terminal of ours."""

    def __init__(self, command: list[str], rows: int = 33, columns: int = 99) -> None:
        self.fd, other = pty.openpty()
        self.resize(rows, columns)
        self.process = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(other)
        self.output = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, pattern: str) -> re.Match[bytes]:
        deadline = time.monotonic() + TIMEOUT_S
        while not (match := re.search(pattern.encode(), self.output)):
            assert time.monotonic() < deadline, (pattern, self.output)
            if select.select([self.fd], [], [], 0.5)[0]:
                try:
                    self.output += os.read(self.fd, 4096)
                except OSError:
                    assert re.search(pattern.encode(), self.output), self.output
        self.output = self.output[match.end() :]
        return match

    def wait(self) -> int:
        return self.process.wait(TIMEOUT_S)


def check_terminal(terminal: Terminal) -> None:
    # containerd's console keeps output processing on, so our terminal adds carriage returns.
    terminal.expect("# ")
    terminal.type("tty; stty size\n")
    terminal.expect(r"/dev/pts/\d+\r+\n33 99\r+\n")
    terminal.expect("# ")
    terminal.resize(44, 111)
    terminal.process.send_signal(28)  # SIGWINCH, which the kernel sends a foreground process
    time.sleep(1.0)
    terminal.type("stty size\n")
    terminal.expect(r"44 111\r+\n")
    terminal.expect("# ")
    terminal.type("sleep 1000\n")
    time.sleep(1.0)
    terminal.type("\x03")
    terminal.expect("# ")
    terminal.type("exit 5\n")


def test_terminal_of_a_run(containerd: Containerd, name: str) -> None:
    terminal = Terminal(
        containerd.command("run", "--runtime", RUNTIME, "-t", "--rm", IMAGE, name, "sh")
    )
    check_terminal(terminal)
    assert terminal.wait() == 5


def test_terminal_of_an_exec(containerd: Containerd, shared_name: str) -> None:
    terminal = Terminal(
        containerd.command("task", "exec", "-t", "--exec-id", "tty1", shared_name, "sh")
    )
    check_terminal(terminal)
    assert terminal.wait() == 5


def test_20_execs_at_once(containerd: Containerd, shared_name: str) -> None:
    results: dict[int, bytes] = {}

    def run(number: int) -> Callable[[], None]:
        def body() -> None:
            results[number] = containerd.exec(shared_name, "echo", str(number)).stdout

        return body

    threads = [threading.Thread(target=run(number)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: f"{number}\n".encode() for number in range(20)}


def test_file_uri_collects_both_streams(
    containerd: Containerd, name: str, tmp_path: os.PathLike[str]
) -> None:
    path = os.path.join(tmp_path, "sub", "log")
    containerd.ctr(
        "run", "--runtime", RUNTIME, "-d", "--log-uri", f"file://{path}", IMAGE, name,
        "sh", "-c", "echo out; echo err >&2",
    )  # fmt: skip
    containerd.wait_status(name, "STOPPED")
    with open(path) as file:
        assert sorted(file.read().split()) == ["err", "out"]


def test_binary_uri_feeds_a_logger(
    containerd: Containerd, name: str, tmp_path: os.PathLike[str]
) -> None:
    logger = os.path.join(tmp_path, "logger")
    with open(logger, "w") as file:
        file.write(
            "#!/bin/sh\nexec 5>&-\n"
            'exec > "$(dirname "$0")/log"\n'
            'echo "$CONTAINER_ID $CONTAINER_NAMESPACE $*"; cat <&3; cat <&4\n'
        )
    os.chmod(logger, 0o755)
    containerd.ctr(
        "run", "--runtime", RUNTIME, "-d", "--log-uri", f"binary://{logger}?key=value", IMAGE, name,
        "sh", "-c", "echo out; echo err >&2",
    )  # fmt: skip
    containerd.wait_status(name, "STOPPED")
    containerd.ctr("task", "delete", name)
    with open(os.path.join(tmp_path, "log")) as file:
        assert file.read() == f"{name} default key value\nout\nerr\n"
