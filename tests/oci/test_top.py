"""kata-runtime top: once, and again and again on a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.oci.test_terminals import read_until, resize
from tests.support.runtime import Runtime
from tests.support.sandboxes import SHIM, find_pids

pytestmark = pytest.mark.e2e
# Of an id that is longer.
_SHOWN = 20


def test_once(runtime: Runtime, shared: str) -> None:
    lines = runtime.call("top", "--once", "--interval", "0.5").stdout.splitlines()
    assert lines[0].split()[:3] == ["SANDBOX", "POD", "CPU"]
    (row,) = [line for line in lines if line.startswith(f"{shared[:_SHOWN]} ")]
    words = row.split()
    assert words[1].endswith("%")
    assert words[3] == "/"
    assert len(words) == 11


def test_a_terminal(shared_runtime: Runtime, shared: str) -> None:
    """It shows itself again, ends on Ctrl-C, and leaves the terminal as it was."""
    master, slave = pty.openpty()
    resize(master, 24, 132)
    process = subprocess.Popen(
        shared_runtime.argv("top", "--interval", "0.3"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm"},
        # What runs the tests may itself ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for _ in range(3):
            read_until(master, f"{shared[:_SHOWN]} ")
        os.kill(process.pid, signal.SIGINT)
        read_until(master, "\x1b[?1049l")  # the other screen again
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.fixture
def hung(shared: str) -> Iterator[str]:
    """A sandbox whose shim does not answer."""
    (pid,) = find_pids(shared, SHIM)
    os.kill(pid, signal.SIGSTOP)
    yield shared
    os.kill(pid, signal.SIGCONT)


def test_one_that_hangs_is_shown_as_such(runtime: Runtime, hung: str) -> None:
    shown = runtime.call("top", "--once", "--interval", "0.5").stdout
    (row,) = [line for line in shown.splitlines() if line.startswith(f"{hung[:_SHOWN]} ")]
    assert "does not answer" in row


@pytest.mark.parametrize("interval", ["0", "-1", "x", "nan", "9999"])
def test_an_interval_that_is_none(runtime: Runtime, interval: str) -> None:
    refused = runtime.call("top", "--interval", interval, check=False)
    assert (refused.returncode, "is not 0.2 to 3600 seconds" in refused.stderr) == (1, True)
