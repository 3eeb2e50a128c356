"""Programs in the guest itself: kata-runtime exec SANDBOX [-- COMMAND]."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.test_terminals import read_until, resize
from tests.support.configuration import write_configuration
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.runtime import Bundle, Runtime, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def allowed(host: None) -> Iterator[Runtime]:
    """The runtime, with a configuration that lets operators in."""
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix="kata-oci-") as folder:
        configuration = write_configuration(Path(folder, "c.toml"), debug_console_enabled=True)
        runtime = Runtime(Path(folder), configuration)
        yield runtime
        runtime.remove_all()
    assert_nothing_new(before)


@pytest.fixture(scope="module")
def sandbox(allowed: Runtime, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sandbox that is looked into."""
    name = f"guest-{os.getpid()}"
    bundle = Bundle(tmp_path_factory.mktemp("guest") / "bundle", rootfs)
    allowed.create(bundle.run("sleep", "100000"), name)
    allowed.call("start", name)
    return name


def test_a_command(allowed: Runtime, sandbox: str) -> None:
    done = allowed.call(
        *("exec", "-e", "NAME=x", sandbox[:-1], "--"),  # the start of an id will do
        *("sh", "-c", "cat /proc/1/comm; echo err >&2; echo $NAME; exit 7"),
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "err\n")
    assert done.stdout.splitlines()[1] == "x"
    # The agent is process 1 there, and the container's is another one.
    inside = allowed.call("exec", sandbox, "cat", "/proc/1/comm").stdout
    assert done.stdout.splitlines()[0] != inside.strip() == "sleep"


def test_a_shell_reads_what_comes_in(allowed: Runtime, sandbox: str) -> None:
    done = allowed.call("exec", sandbox, input="echo $((40 + 2))\nexit 3\n", check=False)
    assert (done.returncode, done.stdout) == (3, "42\n")


def test_a_shell_with_a_terminal(allowed: Runtime, sandbox: str) -> None:
    master, slave = pty.openpty()
    resize(master, 31, 71)
    shell = subprocess.Popen(
        allowed.argv("exec", "--kata-debug-port", "1026", sandbox),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    read_until(master, "# ")
    os.write(master, b"echo up$((1+1))\r")
    read_until(master, "up2")
    os.write(master, b"stty size; ls /proc/1/exe\r")
    read_until(master, "31 71")
    os.write(master, b"echo go$((1+1)); sleep 1000\r")
    read_until(master, "go2")
    time.sleep(0.3)  # the shell has given the terminal to sleep
    os.write(master, b"\x03")
    os.write(master, b"exit 9\r")
    assert shell.wait(timeout=30) == 9
    os.close(master)
    os.close(slave)


def test_a_command_that_is_not_there(allowed: Runtime, sandbox: str) -> None:
    done = allowed.call("exec", sandbox, "--", "no-such-program", check=False)
    assert done.returncode == 127


def test_a_killed_client_ends_its_program(allowed: Runtime, sandbox: str) -> None:
    client = subprocess.Popen(
        allowed.argv("exec", sandbox, "--", "sh", "-c", "echo up; exec sleep 98765"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"up\n"
    children = Path(f"/proc/{client.pid}/task/{client.pid}/children").read_text().split()
    for pid in children:  # the stand-in
        os.kill(int(pid), signal.SIGKILL)
    assert client.wait(timeout=20) == 137
    client.stdout.close()

    def has_ended() -> bool:
        done = allowed.call("exec", sandbox, "--", "ps", "-o", "args")
        assert "ps -o args" in done.stdout
        return "sleep 98765" not in done.stdout

    wait_until(has_ended)


def test_where_it_is_not_allowed(shared_runtime: Runtime, shared: str) -> None:
    for words, text in (((shared,), "process args cannot be empty"), ((shared, "--", "true"), "")):
        done = shared_runtime.call("exec", *words, check=False)
        assert done.returncode == 255
        assert text in done.stderr
        assert "set debug_console_enabled = true in [agent.kata]" in done.stderr
    done = shared_runtime.call("exec", "no-such", "--", "true", check=False)
    assert "find sandbox no-such: no such sandbox runs" in done.stderr
    done = shared_runtime.call("exec", "--cwd", "/", shared, "--", "true", check=False)
    assert "exec in a guest: it has no --cwd" in done.stderr
    # What a container's exec says of a container is as before.
    done = shared_runtime.call("exec", "no-such", "true", check=False)
    assert "container does not exist" in done.stderr
