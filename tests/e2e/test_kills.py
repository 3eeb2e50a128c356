"""kill -9 of every part of a sandbox at every stage: the task ends, and nothing is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configuration import write_configuration
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.ids import make_id
from tests.support.sandboxes import QEMU, SHIM, VIRTIOFSD, assert_gone, kill, wait_for

pytestmark = pytest.mark.e2e

PARTS = (SHIM, QEMU, VIRTIOFSD)
# An engine's view is up to date, and a delete done, within this time of a kill.
LIMIT_S = 8.0


@pytest.fixture
def box(containerd: Containerd, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A container's name of which nothing may be left, and whose volume must keep its data."""
    name = make_id(request.node.name)
    make_volume(tmp_path)
    yield name
    containerd.remove(name)
    assert_gone(name, containerd.address)
    assert read_volume(tmp_path) == {"file": "data", "folder/deep": "more data", "empty": ""}


def make_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "folder").mkdir(parents=True)
    (volume / "file").write_text("data")
    (volume / "folder" / "deep").write_text("more data")
    (volume / "empty").touch()


def read_volume(tmp_path: Path) -> dict[str, str]:
    volume = tmp_path / "volume"
    files = [path for path in volume.rglob("*") if path.is_file()]
    return {str(path.relative_to(volume)): path.read_text() for path in files}


def volume_flags(tmp_path: Path) -> list[str]:
    return ["--mount", f"type=bind,src={tmp_path}/volume,dst=/volume,options=rbind:rw"]


def begin_run(
    containerd: Containerd, box: str, flags: list[str], *command: str
) -> subprocess.Popen[bytes]:
    """Begin to run a container in the foreground."""
    return subprocess.Popen(
        containerd.command("run", "--runtime", RUNTIME, *flags, IMAGE, box, *command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_ended(containerd: Containerd, box: str) -> None:
    """Wait until containerd knows that a task has ended: stopped, or cleaned away."""
    deadline = time.monotonic() + LIMIT_S
    while (status := containerd.status(box)) not in ("STOPPED", ""):
        assert time.monotonic() < deadline, f"{box} is {status}"
        time.sleep(0.05)


def delete(containerd: Containerd, box: str) -> None:
    """Delete what is left of a container, within the limit."""
    started = time.monotonic()
    if containerd.status(box):
        told = containerd.ctr("task", "delete", box).stderr.decode()
        assert re.search(r"exit with non-zero exit code (137|255)", told), told
    containerd.ctr("container", "delete", box)
    assert time.monotonic() - started < LIMIT_S
    assert_gone(box, containerd.address)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("delay_s", [0.0, 0.3, 1.5])
def test_while_the_machine_boots(
    containerd: Containerd, box: str, tmp_path: Path, part: str, delay_s: float
) -> None:
    cold = write_configuration(tmp_path / "cold.toml", enable_template=False)
    flags = [*volume_flags(tmp_path), "--runtime-config-path", cold]
    client = begin_run(containerd, box, flags, "sleep", "1000")
    wait_for(box, part)
    time.sleep(delay_s)
    kill(box, part)
    _, stderr = client.communicate(timeout=LIMIT_S)
    assert client.returncode != 0
    if part == QEMU:
        assert b"QEMU was killed by signal 9" in stderr
    elif part == VIRTIOFSD:
        assert b"virtiofsd was killed by signal 9" in stderr
    wait_ended(containerd, box)
    delete(containerd, box)


@pytest.mark.parametrize("part", [QEMU, VIRTIOFSD])
def test_while_a_copy_starts(
    containerd: Containerd, template: str, box: str, tmp_path: Path, part: str
) -> None:
    client = begin_run(containerd, box, volume_flags(tmp_path), "sh", "-c", "echo on; sleep 1000")
    wait_for(box, part)
    kill(box, part)
    assert client.stdout is not None
    # A copy that fails is taken for a bad template, and another machine boots.
    if client.stdout.readline() == b"on\n":
        containerd.ctr("task", "kill", "-s", "KILL", box)
    client.communicate(timeout=LIMIT_S)
    assert client.returncode != 0
    wait_ended(containerd, box)
    delete(containerd, box)


@pytest.mark.parametrize("part", PARTS)
def test_while_the_container_starts(
    containerd: Containerd, box: str, tmp_path: Path, part: str
) -> None:
    client = begin_run(containerd, box, volume_flags(tmp_path), "sleep", "1000")
    deadline = time.monotonic() + 30
    while not containerd.status(box):
        assert time.monotonic() < deadline
    kill(box, part)
    client.communicate(timeout=LIMIT_S)
    assert client.returncode != 0
    wait_ended(containerd, box)
    delete(containerd, box)


@pytest.mark.parametrize("part", PARTS)
def test_while_the_container_runs(
    containerd: Containerd, box: str, tmp_path: Path, part: str
) -> None:
    client = begin_run(containerd, box, volume_flags(tmp_path), "sh", "-c", "echo on; sleep 1000")
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    kill(box, part)
    client.communicate(timeout=LIMIT_S)
    # containerd answers the wait for a task whose shim is gone with an error, which ctr makes 1.
    assert client.returncode in ((1, 137) if part == SHIM else (255,))
    wait_ended(containerd, box)
    delete(containerd, box)


@pytest.mark.parametrize("part", PARTS)
def test_during_an_exec(containerd: Containerd, box: str, tmp_path: Path, part: str) -> None:
    containerd.start_container(box, "sleep", "1000", flags=volume_flags(tmp_path))
    client = subprocess.Popen(
        containerd.command("task", "exec", "--exec-id", "e1", box, "sh", "-c", "echo on; sleep 99"),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    kill(box, part)
    client.communicate(timeout=LIMIT_S)
    assert client.returncode in (1, 137, 255)
    wait_ended(containerd, box)
    delete(containerd, box)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.2])
def test_during_the_delete(
    containerd: Containerd, box: str, tmp_path: Path, part: str, delay_s: float
) -> None:
    containerd.start_container(box, "sleep", "1000", flags=volume_flags(tmp_path))
    pid = wait_for(box, part)
    killer = threading.Timer(delay_s, lambda: kill_if_there(pid))
    deleter = threading.Thread(
        target=containerd.ctr, args=("task", "delete", "--force", box), kwargs={"check": False}
    )
    deleter.start()
    killer.start()
    deleter.join(LIMIT_S)
    assert not deleter.is_alive()
    wait_ended(containerd, box)
    delete(containerd, box)


def kill_if_there(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.parametrize("key", ["c", "o", "b"])
def test_guest_that_crashes_powers_off_or_reboots(
    containerd: Containerd, box: str, tmp_path: Path, key: str
) -> None:
    flags = [*volume_flags(tmp_path), "--privileged"]
    containerd.start_container(box, "sleep", "1000", flags=flags)
    client = subprocess.Popen(
        containerd.command(
            "task", "exec", "--exec-id", "e1", box, "sh", "-c",
            f"echo {key} > /proc/sysrq-trigger; sleep 99",
        ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, stderr = client.communicate(timeout=LIMIT_S)
    assert client.returncode == 255, stderr
    containerd.wait_status(box, "STOPPED")
    delete(containerd, box)
    if key == "c":
        lost = [line for line in containerd.log.splitlines() if "virtual machine lost" in line]
        assert "Kernel panic" in lost[-1], lost


def test_client_that_goes_away_while_the_machine_boots(
    containerd: Containerd, box: str, tmp_path: Path
) -> None:
    client = begin_run(containerd, box, volume_flags(tmp_path), "sleep", "1000")
    wait_for(box, QEMU)
    client.kill()
    client.communicate(timeout=LIMIT_S)
    assert_gone(box, containerd.address, timeout_s=LIMIT_S)
    wait_ended(containerd, box)
    delete(containerd, box)
