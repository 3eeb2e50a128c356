"""containerd 1.7 and 2.x: the core of the other modules' tests again, and what only they do."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.version import VERSION
from tests.e2e.conftest import FOLDER_PREFIX
from tests.e2e.test_run import (
    test_exit_codes_of_the_container,
    test_kernel_is_the_guests,
    test_stdout_and_stderr_are_separate,
)
from tests.e2e.test_streams import (
    test_end_of_input_reaches_an_exec,
    test_terminal_of_a_run,
    test_terminal_of_an_exec,
)
from tests.e2e.test_tasks import (
    test_containerd_restarts_while_a_container_runs,
    test_error_codes_of_the_service,
    test_events_come_in_order,
    test_exec_is_killed_alone,
    test_pause_stops_the_loop_and_resume_continues_it,
    test_signal_is_handled_by_the_container,
)
from tests.support.containerd import RUNTIME, Containerd
from tests.support.ids import make_id
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.sandboxes import SHIM
from tools import other_debian
from tools.steps import BUILD

__all__ = [
    "test_containerd_restarts_while_a_container_runs",
    "test_end_of_input_reaches_an_exec",
    "test_error_codes_of_the_service",
    "test_events_come_in_order",
    "test_exec_is_killed_alone",
    "test_exit_codes_of_the_container",
    "test_kernel_is_the_guests",
    "test_pause_stops_the_loop_and_resume_continues_it",
    "test_signal_is_handled_by_the_container",
    "test_stdout_and_stderr_are_separate",
    "test_terminal_of_a_run",
    "test_terminal_of_an_exec",
]

pytestmark = pytest.mark.e2e

# Debian's suite, and the version that the test is about.
VERSIONS = {"trixie": "1.7", "sid": "2"}


@pytest.fixture(scope="module", params=VERSIONS, ids=[f"containerd-{v}" for v in VERSIONS.values()])
def suite(request: pytest.FixtureRequest) -> str:
    """The suite of Debian whose containerd is tested."""
    return str(request.param)


@pytest.fixture(scope="module")
def containerd(suite: str, image_archive: str) -> Iterator[Containerd]:
    """The suite's containerd in place of the system's; it leaves nothing when it ends."""
    programs = Path(other_debian.unpack(suite, ["containerd"])) / "usr/bin"
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder), programs)
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()
    assert_nothing_new(before)


@pytest.fixture(scope="module")
def shared_name(containerd: Containerd, suite: str) -> Iterator[str]:
    """A running container that tests use and do not change."""
    name = make_id(f"shared {suite}")
    containerd.start_container(name, "sleep", "1000000")
    yield name
    containerd.remove(name)


@pytest.fixture
def name(request: pytest.FixtureRequest, containerd: Containerd) -> Iterator[str]:
    """The name of a test's container, which leaves nothing behind."""
    container = make_id(request.node.name)
    yield container
    containerd.remove(container)


def test_version_is_the_wanted_one(containerd: Containerd, suite: str) -> None:
    answer = containerd.ctr("version").stdout.decode()
    found = re.findall(r"Version:\s+(\S+)", answer)
    assert len(found) == 2
    assert all(version.startswith(f"{VERSIONS[suite]}.") for version in found), found


def test_missing_command_of_a_run(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "no-such-command", check=False)
    assert done.returncode != 0
    assert b"no-such-command" in done.stderr
    assert containerd.status(name) == ""


def test_missing_command_of_an_exec(containerd: Containerd, shared_name: str) -> None:
    done = containerd.exec(shared_name, "no-such-command", check=False)
    assert done.returncode != 0
    assert b"no-such-command" in done.stderr
    assert containerd.exec(shared_name, "echo", "alive").stdout == b"alive\n"


def test_second_container_of_a_name_is_refused(containerd: Containerd, shared_name: str) -> None:
    done = containerd.run(shared_name, "true", check=False)
    assert b"already exists" in done.stderr
    assert containerd.status(shared_name) == "RUNNING"


def test_containerd_keeps_the_address(containerd: Containerd, shared_name: str, suite: str) -> None:
    bundle = containerd.bundle(shared_name)
    address = (bundle / "address").read_text()
    assert address.startswith("unix:///run/containerd/s/")
    if suite == "sid":  # 2.x writes down what it understood of the answer
        bootstrap = json.loads((bundle / "bootstrap.json").read_text())
        assert bootstrap == {"version": 2, "address": address, "protocol": "ttrpc"}


@pytest.mark.parametrize("suite", ["sid"], indirect=True)  # 1.7 does not ask
def test_containerd_asks_the_shim_what_it_is(containerd: Containerd) -> None:
    done = containerd.ctr("plugins", "inspect-runtime", "--runtime", RUNTIME)
    info = json.loads(done.stdout)
    assert info["Name"] == "io.containerd.kata.v2"
    assert info["Version"]["Version"] == VERSION


def test_shim_prints_its_version() -> None:
    done = subprocess.run([f"{BUILD}/bin/{SHIM}", "-v"], capture_output=True, check=True)
    assert done.stdout.decode() == f"{SHIM}:\n  Version: {VERSION}\n"
