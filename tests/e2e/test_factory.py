"""Sandboxes as copies of a template, and the process that makes templates and forks shims."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kata.host.template.address import SOCKET
from tests.e2e.conftest import FOLDER_PREFIX
from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import (
    LOG,
    TIMEOUT_S,
    end_factory,
    find_builders,
    find_factories,
    find_factory,
    find_templates,
    make_template,
    run_one,
    was_copy,
)
from tests.support.ids import make_id
from tests.support.sandboxes import SHIM, find_pids
from tools.setup import SHARE
from tools.steps import BUILD

pytestmark = pytest.mark.vm

# The field of /proc/PID/stat that says where the arguments are: the same in a fork only.
_ARG_START = 48
_AT_ONCE = 20


@pytest.fixture(scope="module")
def containerd(image_archive: str) -> Iterator[Containerd]:
    """A containerd whose sandboxes do not get machines that wait for them, but copies."""
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        file = write_configuration(Path(folder) / "copies.toml", vm_cache_number=0)
        daemon = Containerd(Path(folder), configuration=file)
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()


@pytest.fixture
def box(containerd: Containerd, name: str) -> Iterator[str]:
    """A running container, a copy."""
    containerd.start_container(name, "sleep", "100000")
    yield name
    containerd.remove(name)


def warnings_of_templates(containerd: Containerd) -> list[str]:
    return [line for line in containerd.log.splitlines() if 'msg="template not used"' in line]


def arguments_address(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[_ARG_START - 3])


def kill_factory() -> None:
    pid = find_factory()
    if pid:
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while find_factory():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def wait_for_factory() -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not find_factory():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_shim_is_a_fork_of_the_factory(containerd: Containerd, template: str, name: str) -> None:
    wait_for_factory()
    containerd.start_container(name, "sleep", "100000")
    shims = find_pids(name, SHIM)
    assert len(shims) == 1
    assert arguments_address(shims[0]) == arguments_address(find_factory())
    argv = Path(f"/proc/{shims[0]}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert [b"-id", name.encode()] == argv[argv.index(b"-id") :][:2]
    assert Path(f"/proc/{shims[0]}/comm").read_text().strip() == SHIM[:15]


def test_copies_are_distinct(containerd: Containerd, template: str) -> None:
    """Many at once: none has the random bytes or the boot id of another."""
    script = (
        "od -An -tx1 -N16 /dev/urandom; cat /proc/sys/kernel/random/boot_id;"
        " cat /proc/sys/kernel/random/uuid"
    )

    def run(number: int) -> list[str]:
        name = make_id(f"distinct {number}")
        done = containerd.run(name, "sh", "-c", script)
        assert was_copy(containerd, name)
        return done.stdout.decode().split("\n")[:3]

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(run, range(_AT_ONCE)))
    for column in zip(*answers, strict=True):
        assert len(set(column)) == _AT_ONCE, column
        assert all(column)


def test_the_clock_of_a_copy_is_the_hosts(containerd: Containerd, template: str, box: str) -> None:
    """A template is older than its copies: without being set, the clock is behind by its age."""
    before = time.time()
    told = int(containerd.exec(box, "date", "+%s").stdout)
    assert before - 1.05 < told < time.time() + 0.05


def test_a_spoilt_template_is_told_once_and_made_anew(
    containerd: Containerd, template: str
) -> None:
    os.truncate(f"{template}/memory", 4096)
    before = len(warnings_of_templates(containerd))
    assert not run_one(containerd)
    told = warnings_of_templates(containerd)[before:]
    assert len(told) == 1
    assert "its memory is not what was saved" in told[0]
    assert make_template(containerd)


def test_a_state_that_the_machine_refuses_is_told_and_another_boots(
    containerd: Containerd, template: str
) -> None:
    """A state that is whole and yet wrong: the file system's check cannot know."""
    import zlib

    folder = Path(template)
    state = (folder / "state").read_bytes()
    wrong = state[: len(state) // 2]
    (folder / "state").write_bytes(wrong)
    note = json.loads((folder / "template.json").read_text())
    note["state"] = zlib.crc32(wrong)
    (folder / "template.json").write_text(json.dumps(note))
    before = len(warnings_of_templates(containerd))
    assert not run_one(containerd)
    told = warnings_of_templates(containerd)[before:]
    assert len(told) == 1
    assert "restore virtual machine" in told[0]
    assert not folder.exists() or make_template(containerd)


def test_another_kernel_is_another_template(
    containerd: Containerd, template: str, tmp_path: Path
) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(Path(f"{SHARE}/vmlinux.container").read_bytes())
    file = write_configuration(tmp_path / "other.toml", kernel=str(kernel))
    flags = ("--runtime-config-path", file)
    assert not run_one(containerd, *flags)
    other = make_template(containerd, *flags)
    assert other != template
    # Both kinds side by side, each from its own.
    assert run_one(containerd)
    assert run_one(containerd, *flags)
    kernel.write_bytes(kernel.read_bytes())
    assert not run_one(containerd, *flags)


def test_without_templates_every_machine_boots(
    containerd: Containerd, template: str, tmp_path: Path
) -> None:
    file = write_configuration(tmp_path / "cold.toml", enable_template=False)
    assert not run_one(containerd, "--runtime-config-path", file)


def test_templates_that_cannot_be_kept_cost_nothing_but_time(
    containerd: Containerd, template: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file/below")
    file = write_configuration(tmp_path / "nowhere.toml", template_path=folder)
    assert not run_one(containerd, "--runtime-config-path", file)
    deadline = time.monotonic() + TIMEOUT_S
    while f"keep template in {folder}: Not a directory" not in LOG.read_text():
        assert time.monotonic() < deadline, LOG.read_text()
        time.sleep(0.2)
    assert run_one(containerd)


def test_a_killed_factory_is_not_missed(containerd: Containerd, template: str, box: str) -> None:
    kill_factory()
    assert containerd.exec(box, "echo", "on").stdout == b"on\n"
    assert Path(SOCKET).exists()
    assert run_one(containerd)  # without a factory templates are used all the same
    wait_for_factory()  # which the sandbox has started
    kill_factory()
    for folder in find_templates():
        os.truncate(folder / "memory", 4096)
    assert not run_one(containerd)
    assert make_template(containerd)  # which another factory made
    assert find_factory()


def test_a_factory_killed_while_it_makes_a_template_leaves_no_half_of_one(
    containerd: Containerd, template: str
) -> None:
    os.truncate(f"{template}/memory", 4096)
    assert not run_one(containerd)
    deadline = time.monotonic() + TIMEOUT_S
    while not (builders := find_builders()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for pid in builders:
        os.kill(pid, signal.SIGKILL)
    kill_factory()
    assert make_template(containerd)


def test_a_message_of_another_kind_harms_nobody(template: str) -> None:
    from kata.base import fdpass

    pid = find_factory()
    for parts in ([b"nonsense"], [b"run", b""], [b"template", b"{"], []):
        sock = fdpass.connect(SOCKET)
        fdpass.send(sock, parts)
        assert fdpass.receive(sock) == ([], [])
        sock.close()
    silent = fdpass.connect(SOCKET)
    silent.close()
    assert find_factory() == pid


def test_the_factory_ends_when_it_is_told(template: str) -> None:
    wait_for_factory()
    program = f"{BUILD}/bin/kata-factory"
    subprocess.run([program, "--end"], check=True, timeout=10)
    deadline = time.monotonic() + 10
    while find_factory():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not Path(SOCKET).exists()
    subprocess.run([program, "--end"], check=True, timeout=10)  # one that does not run


def test_of_many_started_at_once_one_is_the_factory(template: str) -> None:
    end_factory()
    argv = [f"{BUILD}/bin/kata-factory", "--detach"]
    starters = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(5)]
    told = [starter.communicate(timeout=TIMEOUT_S)[1] for starter in starters]
    assert [starter.returncode for starter in starters] == [0] * 5
    assert told.count("kata-factory: another one runs\n") == 4
    wait_for_factory()
    assert len(find_factories()) == 1


def run_verb(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [f"{BUILD}/bin/kata-runtime", "factory", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=check)


def test_an_operator_makes_a_template_looks_and_ends_all(containerd: Containerd) -> None:
    file = str(containerd.folder / "copies.toml")
    run_verb("destroy", "--config", file)
    assert not find_factory()
    assert not find_templates()
    assert run_verb("status", "--config", file).stdout == "no factory runs\n"
    key = run_verb("init", "--config", file).stdout.strip()
    assert [path.name for path in find_templates()] == [key]
    assert run_one(containerd)
    told = json.loads(run_verb("status", "--json", "--config", file).stdout)
    assert told["pid"] == find_factory()
    assert [kept["key"] for kept in told["templates"]] == [key]
    assert key in run_verb("status", "--config", file).stdout
    run_verb("destroy", "--config", file)
    assert not find_factory()
    assert not find_templates()


def test_templates_are_destroyed_while_one_is_made(containerd: Containerd) -> None:
    """It does not appear afterwards, and nothing of its machine is left."""
    file = str(containerd.folder / "copies.toml")
    run_verb("destroy", "--config", file)
    assert not run_one(containerd)  # it booted, and asked for a template
    deadline = time.monotonic() + TIMEOUT_S
    while not find_builders() or not list(Path("/run/kata").glob("template-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run_verb("destroy", "--config", file)
    assert not find_builders()
    assert not find_factory()
    assert not list(Path("/run/kata").glob("template-*"))
    time.sleep(0.5)
    assert not find_templates()


def test_a_template_of_machines_that_boot_is_refused(tmp_path: Path) -> None:
    file = write_configuration(tmp_path / "cold.toml", enable_template=False)
    done = run_verb("init", "--config", file, check=False)
    assert done.returncode == 1
    assert f"enable_template is off in {file}" in done.stderr


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--init", "--json"], ["--end", "x"]])
def test_a_command_line_of_the_factory_that_means_nothing(arguments: list[str]) -> None:
    done = subprocess.run(
        [f"{BUILD}/bin/kata-factory", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: kata-factory")
