"""QEMU 10 and later and the Rust virtiofsd: a container runs in them as in Debian 12's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FOLDER_PREFIX
from tests.e2e.test_run import (
    test_host_folder_is_shared,
    test_read_only_mount_is_read_only,
)
from tests.e2e.test_tasks import test_pause_stops_the_loop_and_resume_continues_it
from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.machine_versions import C_VIRTIOFSD, MACHINES
from tests.support.sandboxes import QEMU, SHIM, VIRTIOFSD, assert_gone, find_pids, kill
from tools.other_debian import UNPACKED

__all__ = [
    "test_host_folder_is_shared",
    "test_pause_stops_the_loop_and_resume_continues_it",
    "test_read_only_mount_is_read_only",
]

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", params=MACHINES)
def machine(request: pytest.FixtureRequest) -> dict[str, str]:
    """Keys of the configuration with the programs that are tested."""
    return MACHINES[request.param]()


@pytest.fixture(scope="module")
def containerd(
    machine: dict[str, str], image_archive: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containerd]:
    """The system's containerd, with a configuration that names other programs."""
    path = tmp_path_factory.mktemp("machine") / "configuration.toml"
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder), configuration=write_configuration(path, **machine))
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()
    assert_nothing_new(before)


def test_programs_are_those_of_the_configuration(
    containerd: Containerd, name: str, machine: dict[str, str]
) -> None:
    containerd.start_container(name, "sleep", "1000")
    for key, program in (("path", QEMU), ("virtio_fs_daemon", VIRTIOFSD)):
        maps = Path(f"/proc/{find_pids(name, program)[0]}/maps").read_text()
        wanted = machine.get(key, C_VIRTIOFSD)
        place = wanted if wanted == C_VIRTIOFSD else f"{UNPACKED}/"
        assert (place in maps) is (key in machine)
    assert containerd.exec(name, "cat", input=b"some").stdout == b"some"


@pytest.mark.parametrize("part", [SHIM, VIRTIOFSD])
def test_killed_part_leaves_nothing(containerd: Containerd, name: str, part: str) -> None:
    containerd.start_container(name, "sleep", "1000")
    kill(name, part)
    containerd.wait_status(name, "STOPPED" if part != SHIM else "")
    containerd.remove(name)
    assert_gone(name, containerd.address)
