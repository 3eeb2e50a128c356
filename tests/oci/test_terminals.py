"""Terminals: by a console socket as engines want it, and in the foreground."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runtime import Bundle, Runtime, wait_until

pytestmark = pytest.mark.e2e


class ConsoleSocket:
    """An engine's end: waits for one terminal."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self.master = -1
        self.name = ""
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            name, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        self.name = name.decode()
        (self.master,) = fds

    def wait(self) -> int:
        """Return the terminal's master end."""
        self._thread.join(timeout=20)
        assert self.master >= 0
        return self.master

    def close(self) -> None:
        self._listener.close()
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


@pytest.fixture
def console(tmp_path: Path) -> Iterator[ConsoleSocket]:
    made = ConsoleSocket(tmp_path / "console")
    yield made
    made.close()


def read_until(fd: int, wanted: str, timeout_s: float = 20.0) -> str:
    """Return what a terminal shows until it shows some words."""
    shown = ""
    deadline = time.monotonic() + timeout_s
    while wanted not in shown:
        assert select.select([fd], [], [], max(0, deadline - time.monotonic()))[0], shown
        try:
            data = os.read(fd, 4096)
        except OSError:
            data = b""
        assert data, shown
        shown += data.decode()
    return shown


def resize(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def test_a_container_with_a_console_socket(
    runtime: Runtime, bundle: Bundle, name: str, console: ConsoleSocket
) -> None:
    bundle.spec["process"]["consoleSize"] = {"height": 11, "width": 22}
    bundle.run("sh", terminal=True)
    runtime.create(bundle, name, "--console-socket", console.path)
    master = console.wait()
    assert console.name.startswith("/dev/pts/")
    runtime.call("start", name)
    os.write(master, b"tty; stty size; echo done$((1+1))\n")
    shown = read_until(master, "done2")
    assert "/dev/" in shown
    resize(master, 33, 44)
    os.write(master, b"sleep 0.5; stty size; echo again$((1+1))\n")
    assert "33 44" in read_until(master, "again2")
    os.write(master, b"exit 5\n")
    runtime.wait_for_status(name, "stopped")


def test_control_c_and_the_end_of_input(
    runtime: Runtime, bundle: Bundle, name: str, console: ConsoleSocket
) -> None:
    runtime.create(bundle.run("sh", terminal=True), name, "--console-socket", console.path)
    master = console.wait()
    runtime.call("start", name)
    os.write(master, b"echo up$((1+1)); sleep 1000; echo after$((1+1))\n")
    read_until(master, "up2")
    time.sleep(0.3)
    os.write(master, b"\x03")
    os.write(master, b"echo next$((1+1))\n")
    read_until(master, "next2")
    time.sleep(0.3)  # the shell throws away what was typed before its prompt
    os.write(master, b"\x04")
    runtime.wait_for_status(name, "stopped")


def test_an_engine_that_hangs_up_is_told_to_the_process(
    runtime: Runtime, bundle: Bundle, name: str, console: ConsoleSocket
) -> None:
    script = "trap 'exit 3' HUP; echo up; while :; do sleep 0.1; done"
    bundle.run("sh", "-c", script, terminal=True)
    runtime.create(bundle, name, "--console-socket", console.path)
    master = console.wait()
    runtime.call("start", name)
    read_until(master, "up")
    console.close()
    runtime.wait_for_status(name, "stopped")


def test_an_exec_with_a_console_socket(
    shared_runtime: Runtime, shared: str, console: ConsoleSocket
) -> None:
    done = shared_runtime.call(
        *("exec", "-d", "-t", "--console-socket", console.path, shared),
        *("sh", "-c", "read line; echo got $line; tty"),
        check=False,
    )
    assert done.returncode == 0, done
    os.write(console.wait(), b"words\n")
    shown = read_until(console.master, "/dev/")
    assert "got words" in shown


def test_the_foreground_has_the_users_terminal(shared_runtime: Runtime, shared: str) -> None:
    master, slave = pty.openpty()
    resize(master, 30, 70)
    process = subprocess.Popen(
        shared_runtime.argv(
            "exec", "-t", shared, "sh", "-c", "stty size; read a; echo $a$a; exit 6"
        ),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    assert "30 70" in read_until(master, "30 70")
    os.write(master, b"xy\r")
    read_until(master, "xyxy")
    assert process.wait(timeout=20) == 6
    # The user's terminal is as it was.
    assert termios.tcgetattr(slave)[3] & termios.ICANON
    os.close(master)
    os.close(slave)


def test_run_in_the_foreground_with_a_terminal(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.run("sh", "-c", "tty; exit 8", terminal=True)
    done = runtime.call("run", "-b", str(bundle.folder), name, check=False)
    assert (done.returncode, "/dev/" in done.stdout) == (8, True), done


def test_flags_that_do_not_fit(shared_runtime: Runtime, shared: str, tmp_path: Path) -> None:
    for words, text in (
        (("-d", "-t"), "cannot allocate tty if runc will detach"),
        (("--console-socket", "/x"), "cannot use console socket"),
        (("-t", "-d", "--console-socket", f"{tmp_path}/none"), "No such file or directory"),
    ):
        done = shared_runtime.call("exec", *words, shared, "true", check=False)
        assert (done.returncode, text in done.stderr) == (255, True), done
    wait_until(lambda: shared_runtime.status(shared) == "running")
