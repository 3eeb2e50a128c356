"""Our own kernel, with the initrd and with the image: what guests are made of instead of Debian's.

The kernel is built once, in about ten minutes, and kept in /var/cache/kata-image.
KATA_TEST_KERNEL=0 skips that where there is none yet.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.guest.node import SETTINGS
from tests.e2e.conftest import FOLDER_PREFIX
from tests.e2e.test_run import (
    test_host_folder_is_shared,
    test_read_only_mount_is_read_only,
)
from tests.e2e.test_tasks import test_pause_stops_the_loop_and_resume_continues_it
from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import end_factory, make_template, run_one
from tests.support.guests import GUESTS, IMAGE, OWN_KERNEL
from tests.support.leaks import assert_nothing_new, take_inventory
from tools.setup import SHARE
from tools.steps import BUILD

__all__ = [
    "test_host_folder_is_shared",
    "test_pause_stops_the_loop_and_resume_continues_it",
    "test_read_only_mount_is_read_only",
]

pytestmark = pytest.mark.e2e

BUILD_TIMEOUT_S = 3600.0
# The promise: what each copy of a template gets of it.
IMAGE_TEMPLATE_MAX_BYTES = 48_000_000
REPORTING_ORDER = "/sys/module/page_reporting/parameters/page_reporting_order"
FILE_SYSTEMS = {"cgroup2", "erofs", "ext4", "fuse", "nfs", "nfs4", "overlay", "virtiofs", "xfs"}


@pytest.fixture(scope="module")
def own_kernel() -> str:
    """The kernel's path; built when it is not there or its source or options changed."""
    if os.environ.get("KATA_TEST_KERNEL") == "0" and not os.path.exists(OWN_KERNEL):
        pytest.skip("KATA_TEST_KERNEL=0, and no kernel was built")
    command = [f"{BUILD}/bin/kata-image", "kernel", "--output", SHARE]
    subprocess.run(command, check=True, timeout=BUILD_TIMEOUT_S)
    return OWN_KERNEL


@pytest.fixture(scope="module", params=[name for name in GUESTS if name.startswith("own")])
def keys(request: pytest.FixtureRequest, own_kernel: str) -> dict[str, object]:
    """The keys of the configuration that make the guest what it is."""
    assert GUESTS[request.param]["kernel"] == own_kernel
    return GUESTS[request.param]


@pytest.fixture(scope="module")
def containerd(
    keys: dict[str, object], image_archive: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containerd]:
    """The system's containerd, with a configuration for such guests."""
    end_factory()
    path = tmp_path_factory.mktemp("guest") / "configuration.toml"
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder), configuration=write_configuration(path, **keys))
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()
    assert_nothing_new(before)


def test_kernel_and_root_are_those_of_the_configuration(
    containerd: Containerd, name: str, keys: dict[str, object]
) -> None:
    script = "uname -r; cat /proc/cmdline; dmesg"
    kernel, parameters, *log = containerd.run(name, "sh", "-c", script).stdout.decode().split("\n")
    has_image = bool(keys.get("image"))
    assert kernel.endswith("-kata")
    assert ("root=/dev/pmem0" in parameters.split()) is has_image
    assert any("erofs: (device pmem0): mounted" in line for line in log) is has_image
    # All files are memory, and not one is a disk's.
    assert any("erofs: DAX enabled" in line for line in log) is has_image
    assert not [line for line in log if "DAX unsupported" in line]


def test_all_is_there_and_nothing_makes_itself_seen(containerd: Containerd, name: str) -> None:
    script = "cat /proc/filesystems; echo -; ls /sys/class/net; echo -; ls /sys/block"
    done = containerd.run(name, "sh", "-c", script)
    systems, networks, blocks = (part.split() for part in done.stdout.decode().split("-\n"))
    assert set(systems) >= FILE_SYSTEMS
    assert networks == ["lo"]
    assert set(blocks) <= {"pmem0"}


def test_settings_are_a_nodes(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "sysctl", *dict(SETTINGS))
    wanted = [f"{setting} = {value}" for setting, value in SETTINGS]
    assert done.stdout.decode().splitlines() == wanted


def test_loop_devices_of_a_privileged_container(containerd: Containerd, name: str) -> None:
    script = (
        "truncate -s 1M /tmp/image && losetup /dev/loop0 /tmp/image && echo by loop > /dev/loop0"
        " && head -n 1 /tmp/image && losetup -d /dev/loop0 && ls /dev/net"
    )
    done = containerd.run(name, "sh", "-c", script, flags=["--privileged"])
    assert done.stdout.decode().splitlines() == ["by loop", "tun"]


def test_nothing_can_be_loaded(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "cat", "/proc/modules", check=False)
    assert "can't open '/proc/modules': No such file" in done.stderr.decode()


def test_a_template_is_small_and_serves(
    containerd: Containerd, name: str, keys: dict[str, object]
) -> None:
    folder = make_template(containerd)
    assert run_one(containerd)
    if keys.get("image"):
        assert os.stat(f"{folder}/memory").st_blocks * 512 <= IMAGE_TEMPLATE_MAX_BYTES
    containerd.start_container(name, "sleep", "1000")
    assert containerd.exec(name, "cat", input=b"some").stdout == b"some"
    # What holds while a template is made is over in its copies: see kata.guest.template.
    order = containerd.exec(name, "cat", REPORTING_ORDER).stdout
    assert order == b"9\n"


def test_copies_have_the_image_in_common(
    containerd: Containerd, name: str, keys: dict[str, object]
) -> None:
    make_template(containerd)
    containerd.start_container(name, "sleep", "1000")
    pid = containerd.ctr("task", "ls").stdout.decode().split(name)[1].split()[0]
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    mapped = [line.split()[1] for line in maps if line.endswith(os.path.realpath(IMAGE))]
    # An initrd is unpacked into each guest's memory.
    assert mapped == (["r--s"] if keys.get("image") else [])


def test_a_kernel_that_cannot_boot_from_an_image_is_named(
    containerd: Containerd, name: str, tmp_path: Path
) -> None:
    file = write_configuration(tmp_path / "bad.toml", initrd="", image=IMAGE)
    flags = ["--runtime-config-path", file]
    done = containerd.run(name, "true", flags=flags, check=False)
    assert done.returncode
    assert "-cloud-amd64) cannot boot from an image" in done.stderr.decode()


def test_a_kernel_is_built_once(own_kernel: str, tmp_path: Path) -> None:
    command = [f"{BUILD}/bin/kata-image", "kernel", "--output", str(tmp_path)]
    subprocess.run(command, check=True, timeout=30)
    assert (tmp_path / "vmlinux-kata.container").read_bytes() == Path(own_kernel).read_bytes()
