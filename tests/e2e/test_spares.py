"""Machines that run and wait for sandboxes: used, replaced, distinct, ended, never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import (
    LOG,
    TIMEOUT_S,
    end_factory,
    find_factory,
    find_spares,
    make_template,
    wait_for_spares,
    was_warm,
)
from tests.support.ids import make_id
from tests.support.leaks import list_spares_own
from tests.support.pressure import memory_pressure
from tests.support.sandboxes import QEMU, SHIM, VIRTIOFSD, find_pids
from tools.steps import BUILD

pytestmark = pytest.mark.vm

# Without a machine nothing of a spare is left after this.
_GONE_S = 10.0
_SIZE = 3


@pytest.fixture
def spare(containerd: Containerd, template: str) -> int:
    """The process that holds a machine for a sandbox."""
    return wait_for_spares(1)[0]


@pytest.fixture
def three(containerd: Containerd, tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """Flags of a configuration whose pool has three machines, which are there."""
    end_factory()  # whose spares are of another kind
    file = write_configuration(tmp_path / "three.toml", vm_cache_number=_SIZE)
    flags = ("--runtime-config-path", file)
    make_template(containerd, *flags)
    wait_for_spares(_SIZE)
    yield flags
    end_factory()


def wait_gone(pids: list[int]) -> None:
    """Wait until nothing of spares is left: processes, state and shared folders."""
    deadline = time.monotonic() + _GONE_S
    while left := [line for pid in pids for line in list_spares_own(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_a_container_gets_it_and_another_is_made(
    containerd: Containerd, spare: int, name: str
) -> None:
    containerd.start_container(name, "sleep", "100000")
    assert was_warm(containerd, name)
    # The process that held the machine is the shim, and all of it has the container's name.
    assert find_pids(name, SHIM) == [spare]
    assert len(find_pids(name, QEMU)) == 1
    assert len(find_pids(name, VIRTIOFSD)) == 2
    assert not list_spares_own(spare)
    assert wait_for_spares(1) != [spare]


def test_what_it_runs_with_is_as_usual(containerd: Containerd, spare: int, name: str) -> None:
    """What was done at the lowest priority does not stay there."""
    containerd.start_container(name, "sleep", "100000")
    for program in (SHIM, QEMU, VIRTIOFSD):
        for pid in find_pids(name, program):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                assert os.getpriority(os.PRIO_PROCESS, int(thread.name)) == 0
    # Nothing of the container that was run to warm it.
    assert containerd.exec(name, "cat", "/proc/1/comm").stdout == b"sleep\n"
    mounts = Path(f"/run/kata-containers/shared/sandboxes/{name}/mounts")
    assert [entry.name for entry in mounts.iterdir()] == [name]


def test_several_are_distinct(containerd: Containerd, three: tuple[str, ...]) -> None:
    script = "od -An -tx1 -N16 /dev/urandom; cat /proc/sys/kernel/random/boot_id; date +%s"

    def run(number: int) -> list[str]:
        name = make_id(f"distinct {number}")
        done = containerd.run(name, "sh", "-c", script, flags=three)
        assert was_warm(containerd, name)
        return done.stdout.decode().split("\n")[:3]

    before = time.time()
    with ThreadPoolExecutor(_SIZE) as pool:
        answers = list(pool.map(run, range(_SIZE)))
    random, boot_ids, times = zip(*answers, strict=True)
    assert len(set(random)) == len(set(boot_ids)) == _SIZE
    assert all(before - 1.05 < float(told) < time.time() + 0.05 for told in times)


def test_one_of_another_kind_is_not_used(
    containerd: Containerd, spare: int, name: str, tmp_path: Path
) -> None:
    file = write_configuration(tmp_path / "larger.toml", default_memory=600)
    done = containerd.run(name, "grep", "MemTotal", "/proc/meminfo", flags=config(file))
    assert not was_warm(containerd, name)
    assert int(done.stdout.split()[1]) > 520 << 10
    wait_gone([spare])


def config(file: str) -> tuple[str, str]:
    return ("--runtime-config-path", file)


@pytest.mark.parametrize("part", ["process", QEMU, VIRTIOFSD])
def test_one_that_is_killed_is_replaced(
    containerd: Containerd, spare: int, name: str, part: str
) -> None:
    if part == "process":
        kill(spare)
    else:
        kill(next(int(line.split()[1]) for line in list_spares_own(spare) if part in line))
    wait_gone([spare])
    containerd.run(name, "true")
    assert wait_for_spares(1) != [spare]


def test_a_machine_killed_in_the_instant_that_it_is_wanted(
    containerd: Containerd, spare: int, name: str
) -> None:
    """Stopped, the process that holds it cannot notice before the request is there."""
    qemu = next(int(line.split()[1]) for line in list_spares_own(spare) if QEMU in line)
    os.kill(spare, signal.SIGSTOP)
    kill(qemu)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(containerd.run, name, "echo", "on")
        time.sleep(0.3)
        os.kill(spare, signal.SIGCONT)
        assert running.result().stdout == b"on\n"
    assert not was_warm(containerd, name)
    wait_gone([spare])


def test_all_end_with_the_factory(containerd: Containerd, three: tuple[str, ...]) -> None:
    spares = find_spares()
    kill(find_factory())
    wait_gone(spares)
    make_template(containerd, *three)
    assert not set(wait_for_spares(_SIZE)) & set(spares)
    end_factory()
    wait_gone(spares)


def test_none_is_left_once_the_end_is_answered(containerd: Containerd, spare: int) -> None:
    subprocess.run([f"{BUILD}/bin/kata-factory", "--end"], check=True, timeout=20)
    assert not find_spares()
    assert not list(Path("/run/kata").glob("spare-*"))


def test_what_killed_ones_leave_the_next_factory_removes(
    containerd: Containerd, spare: int, name: str
) -> None:
    os.kill(find_factory(), signal.SIGSTOP)
    factory = find_factory()
    kill(spare, factory)
    containerd.run(name, "true")
    wait_gone([spare])


def test_a_running_container_outlives_the_factory(
    containerd: Containerd, spare: int, name: str
) -> None:
    containerd.start_container(name, "sleep", "100000")
    assert was_warm(containerd, name)
    end_factory()
    time.sleep(0.5)
    assert containerd.exec(name, "echo", "on").stdout == b"on\n"


def test_they_end_when_memory_gets_short(
    containerd: Containerd, spare: int, name: str, tmp_path: Path
) -> None:
    with memory_pressure(tmp_path):
        wait_gone_under_pressure = time.monotonic() + TIMEOUT_S
        while spare in find_spares():
            assert time.monotonic() < wait_gone_under_pressure
            time.sleep(0.2)
    wait_gone([spare])
    assert "the host is short of memory" in LOG.read_text()
    containerd.run(name, "true")
    assert not was_warm(containerd, name)
    # For a while none is made; the next factory knows nothing of that.
    time.sleep(1.0)
    assert not find_spares()
    end_factory()


def test_a_pool_that_cannot_fit_is_refused(
    containerd: Containerd, template: str, name: str, tmp_path: Path
) -> None:
    file = write_configuration(tmp_path / "many.toml", vm_cache_number=1000)
    done = containerd.run(name, "true", flags=config(file), check=False)
    assert done.returncode != 0
    told = done.stderr.decode()
    assert "vm_cache_number = 1000: 1000 machines of" in told
    assert "this host has" in told
    assert "lower vm_cache_number" in told
