"""containerd is killed and started again while containers run, with and without their shims."""

from __future__ import annotations

import re
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FOLDER_PREFIX
from tests.support.containerd import Containerd
from tests.support.ids import make_id
from tests.support.sandboxes import QEMU, SHIM, VIRTIOFSD, assert_gone, find_pids, kill

pytestmark = pytest.mark.e2e


@pytest.fixture
def engine(image_archive: str) -> Iterator[Containerd]:
    """A containerd that a test may kill."""
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder))
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()


@pytest.fixture
def box(engine: Containerd, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container's name of which nothing may be left."""
    name = make_id(request.node.name)
    yield name
    engine.remove(name)
    assert_gone(name, engine.address)


def delete_task(engine: Containerd, box: str) -> int:
    """Delete a task; returns the exit code that ctr tells (its own is 0)."""
    told = engine.ctr("task", "delete", box).stderr.decode()
    found = re.search(r"exit with non-zero exit code (\d+)", told)
    return int(found[1]) if found else 0


def test_container_outlives_containerd(engine: Containerd, box: str) -> None:
    engine.start_container(box, "sh", "-c", "echo on > /started; sleep 1000")
    before = find_pids(box, QEMU)
    engine.stop(signal.SIGKILL)
    assert find_pids(box, QEMU) == before
    engine.start()
    assert engine.status(box) == "RUNNING"
    assert engine.exec(box, "cat", "/started").stdout == b"on\n"
    engine.ctr("task", "kill", "-s", "KILL", box)
    engine.wait_status(box, "STOPPED")
    assert delete_task(engine, box) == 137


def test_exit_while_containerd_is_down(engine: Containerd, box: str) -> None:
    engine.start_container(box, "sh", "-c", "sleep 3; exit 42")
    engine.stop(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while find_pids(box, QEMU):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    engine.start()
    assert engine.status(box) == "STOPPED"
    assert delete_task(engine, box) == 42
    engine.ctr("container", "delete", box)
    assert_gone(box, engine.address)


def test_shim_and_containerd_killed(engine: Containerd, box: str) -> None:
    engine.start_container(box, "sleep", "1000")
    engine.stop(signal.SIGKILL)
    kill(box, SHIM)
    deadline = time.monotonic() + 5
    while find_pids(box, QEMU) or find_pids(box, VIRTIOFSD):
        assert time.monotonic() < deadline  # nothing of a sandbox outlives its shim
        time.sleep(0.1)
    engine.start()
    assert engine.status(box) == ""
    assert_gone(box, engine.address)
    engine.ctr("container", "delete", box)
    engine.start_container(box, "true")
    engine.wait_status(box, "STOPPED")


def test_machine_and_containerd_killed(engine: Containerd, box: str) -> None:
    engine.start_container(box, "sleep", "1000")
    engine.stop(signal.SIGKILL)
    kill(box, QEMU)
    engine.start()
    engine.wait_status(box, "STOPPED")
    assert delete_task(engine, box) == 255
