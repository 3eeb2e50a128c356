"""A volume's file system: how full it is, and its growth after its device's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from kata.rpc.pb import csi_pb2
from tests.guest.harness import Host

FOLDER = "/run/disk"
VOLUME = "/run/kata-containers/sandbox/volume"
MIB = 1 << 20
CAP_SYS_RESOURCE = 24
# xfs takes no less than 300 MiB.
SIZES = {"ext4": (64 * MIB, 256 * MIB), "xfs": (320 * MIB, 640 * MIB)}


class Disk:
    """A file that is a block device with a file system, mounted where the agent runs."""

    def __init__(self, host: Host, file: Path, fstype: str) -> None:
        self.fstype = fstype
        self.sizes = SIZES[fstype]
        self._file = file
        self._pid = str(host.agent.pid)
        os.truncate(os.open(file, os.O_CREAT | os.O_WRONLY), self.sizes[0])
        run(f"mkfs.{fstype}", "-q", str(file))
        self._device = run("losetup", "--find", "--show", str(file)).strip()
        host.agent.path(FOLDER).mkdir()
        self._inside("mount", self._device, FOLDER)

    def grow(self) -> None:
        """Make the device larger, as a host does; the file system does not know."""
        os.truncate(self._file, self.sizes[1])
        run("losetup", "--set-capacity", self._device)

    def close(self) -> None:
        self._inside("umount", FOLDER)
        run("losetup", "--detach", self._device)

    def _inside(self, *command: str) -> None:
        run("nsenter", "--mount", "--target", self._pid, *command)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture(params=list(SIZES))
def disk(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Iterator[Disk]:
    """A disk that is the volume of a container."""
    if request.param not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"this kernel has no {request.param}")
    disk = Disk(host, tmp_path / "disk", request.param)
    add(host, "bind", FOLDER)
    yield disk
    host.remove("c1")
    disk.close()


def add(host: Host, driver: str, source: str = "") -> None:
    storage = pb.Storage(driver=driver, source=source, mount_point=VOLUME)
    host.create("c1", host.spec("true"), [storage])


def measure(host: Host, path: str = VOLUME) -> tuple[csi_pb2.VolumeUsage, csi_pb2.VolumeUsage]:
    """Return the usage of bytes and of inodes."""
    request = pb.VolumeStatsRequest(volume_guest_path=path)
    answer = host.call("GetVolumeStats", request, csi_pb2.VolumeStatsResponse)
    assert not answer.volume_condition.abnormal
    used, inodes = answer.usage
    assert used.unit == csi_pb2.VolumeUsage.BYTES
    assert inodes.unit == csi_pb2.VolumeUsage.INODES
    return used, inodes


def resize(host: Host, size: int, path: str = VOLUME) -> None:
    host.call("ResizeVolume", pb.ResizeVolumeRequest(volume_guest_path=path, size=size))


def test_usage(host: Host, disk: Disk) -> None:
    before, files_before = measure(host)
    assert before.used + before.available <= before.total <= disk.sizes[0]
    (host.agent.path(VOLUME) / "file").write_bytes(bytes(8 * MIB))
    os.sync()  # xfs and ext4 give blocks to a file when it is written back
    after, files_after = measure(host)
    assert after.total == before.total
    assert after.used - before.used >= 8 * MIB
    assert files_after.used - files_before.used == 1


def may_resize_ext4() -> bool:
    """Tell whether root here has the capability; a guest's agent has it (tests/vm)."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) & 1 << CAP_SYS_RESOURCE)


def test_a_file_system_grows_with_its_device(host: Host, disk: Disk) -> None:
    if disk.fstype == "ext4" and not may_resize_ext4():
        pytest.skip("root lacks CAP_SYS_RESOURCE")
    before, _ = measure(host)
    (host.agent.path(VOLUME) / "file").write_text("kept")
    disk.grow()
    assert measure(host)[0].total == before.total
    for _ in range(2):  # nothing is left to do for the second
        resize(host, disk.sizes[1])
        assert measure(host)[0].total > disk.sizes[1] * 0.8
    assert (host.agent.path(VOLUME) / "file").read_text() == "kept"


def test_a_device_that_did_not_grow_is_named(host: Host, disk: Disk) -> None:
    with pytest.raises(RpcError, match=f"device has {disk.sizes[0]} bytes, not") as caught:
        resize(host, disk.sizes[1])
    assert caught.value.code == Code.OUT_OF_RANGE


def test_memory_does_not_grow(host: Host) -> None:
    host.mounts_may_stay = True
    add(host, "ephemeral")
    with pytest.raises(RpcError, match="not possible with tmpfs") as caught:
        resize(host, MIB)
    assert caught.value.code == Code.UNIMPLEMENTED


def test_a_folder_has_no_file_system_to_grow(host: Host) -> None:
    add(host, "local")
    assert measure(host)[0].total
    with pytest.raises(RpcError, match="no file system of its own") as caught:
        resize(host, MIB)
    assert caught.value.code == Code.UNIMPLEMENTED


@pytest.mark.parametrize("path", ["/run", "/", "", f"{VOLUME}/below", f"{VOLUME}/../volume", "x"])
def test_only_storages_are_volumes(host: Host, path: str) -> None:
    add(host, "local")
    for call in (lambda: measure(host, path), lambda: resize(host, MIB, path)):
        with pytest.raises(RpcError) as caught:
            call()
        assert caught.value.code == Code.NOT_FOUND


def test_a_link_in_its_place_is_not_followed(host: Host) -> None:
    add(host, "local")
    host.agent.path(VOLUME).rmdir()
    host.agent.path(VOLUME).symlink_to("/etc")
    for call in (lambda: measure(host), lambda: resize(host, MIB)):
        with pytest.raises(RpcError) as caught:
            call()
        assert caught.value.code == Code.INVALID_ARGUMENT
