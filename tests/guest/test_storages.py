"""Storages: mounted before a container, shared, undone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kata.base import syscalls
from kata.base.errors import Code
from kata.base.mountoptions import parse_options
from kata.guest import storage
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import Host

VOLUME = "/run/kata-containers/sandbox/volume"


def tmpfs(mount_point: str = VOLUME, *options: str) -> pb.Storage:
    return pb.Storage(
        driver="ephemeral",
        source="tmpfs",
        fstype="tmpfs",
        mount_point=mount_point,
        options=options,
    )


def bind(source: str, mount_point: str, *options: str) -> pb.Storage:
    return pb.Storage(driver="bind", source=source, mount_point=mount_point, options=options)


def with_volume(host: Host, *args: str) -> dict[str, object]:
    spec = host.spec(*args)
    volume = {"destination": "/volume", "type": "bind", "source": VOLUME, "options": ["rbind"]}
    spec["mounts"] = [*spec["mounts"], volume]
    return spec


@pytest.fixture(autouse=True)
def sandbox(host: Host) -> None:
    """Ephemeral storages live as long as the sandbox, so they are let go before the look."""
    host.mounts_may_stay = True


def test_memory_volume_is_shared_and_outlives_a_container(host: Host) -> None:
    for name, command in (("c1", "echo kept > /volume/f"), ("c2", "cat /volume/f")):
        host.create(name, with_volume(host, "sh", "-c", command), [tmpfs(VOLUME, "size=1m")])
        host.start(name)
        assert host.wait(name) == 0
        if name == "c1":
            host.remove(name)
    assert host.read_all("c2") == b"kept\n"
    assert host.agent.mounts().count(VOLUME) == 1


def test_memory_volume_of_a_group(host: Host) -> None:
    host.create(
        "c1", with_volume(host, "stat", "-c", "%g %a", "/volume"), [tmpfs(VOLUME, "fsgid=77")]
    )
    host.start("c1")
    assert host.read_all("c1").split() == [b"77", b"3777"]


def test_memory_volume_is_resized(host: Host) -> None:
    host.create("c1", host.spec("true"), [tmpfs(VOLUME, "size=1m")])
    request = pb.UpdateEphemeralMountsRequest(storages=[tmpfs(VOLUME, "size=3m")])
    host.call("UpdateEphemeralMounts", request)
    status = os.statvfs(host.agent.path(VOLUME))
    assert status.f_blocks * status.f_frsize == 3 << 20
    unknown = pb.UpdateEphemeralMountsRequest(storages=[tmpfs("/run/other")])
    with pytest.raises(RpcError) as caught:
        host.call("UpdateEphemeralMounts", unknown)
    assert caught.value.code == Code.NOT_FOUND


def test_local_volume(host: Host) -> None:
    local = pb.Storage(driver="local", mount_point=VOLUME, options=["mode=0750", "fsgid=5"])
    host.create("c1", with_volume(host, "stat", "-c", "%g %a", "/volume"), [local])
    host.start("c1")
    assert host.read_all("c1").split() == [b"5", b"2750"]


def test_bind_is_counted_and_unmounted_by_the_last(host: Host, tmp_path: Path) -> None:
    point = "/run/kata-containers/shared/containers/data"
    (tmp_path / "f").write_text("x")
    for name in ("c1", "c2"):
        host.create(name, host.spec("true"), [bind(str(tmp_path), point, "ro")])
    assert host.agent.mounts().count(point) == 1
    assert host.agent.path(f"{point}/f").read_text() == "x"
    assert os.statvfs(host.agent.path(point)).f_flag & os.ST_RDONLY
    host.remove("c1")
    assert host.agent.mounts().count(point) == 1
    host.remove("c2")
    assert host.agent.mounts().count(point) == 0
    assert (tmp_path / "f").read_text() == "x"


def test_bind_of_a_file(host: Host, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("content")
    point = "/run/kata-containers/shared/containers/file"
    host.create("c1", host.spec("true"), [bind(str(tmp_path / "f"), point)])
    assert host.agent.path(point).read_text() == "content"


def test_overlay_as_rootfs(host: Host, tmp_path: Path) -> None:
    work = host.agent.path("run/overlay")
    work.mkdir()
    point = "/run/kata-containers/c1/rootfs"
    overlay = pb.Storage(
        driver="overlayfs",
        source="overlay",
        fstype="overlay",
        mount_point=point,
        options=[
            f"lowerdir={host.rootfs}",
            "upperdir=/run/overlay/up",
            "workdir=/run/overlay/work",
        ],
        driver_options=[
            f"{storage.CREATE_DIRECTORY}/run/overlay/up",
            f"{storage.CREATE_DIRECTORY}/run/overlay/work",
        ],
    )
    spec = host.spec("sh", "-c", "echo written > /file; cat /file")
    spec["root"]["path"] = point
    host.create("c1", spec, [overlay])
    host.start("c1")
    assert host.read_all("c1") == b"written\n"
    assert (work / "up/file").read_text() == "written\n"
    host.remove("c1")
    assert point not in host.agent.mounts()


def test_fs_group(host: Host, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "folder/file").write_text("")
    (tmp_path / "folder/file").chmod(0o600)
    (tmp_path / "link").symlink_to("/etc/passwd")
    point = "/run/kata-containers/shared/containers/grouped"
    volume = bind(str(tmp_path), point)
    volume.fs_group.group_id = 4242
    passwd = os.stat("/etc/passwd")
    host.create("c1", host.spec("true"), [volume])
    for name, mode in (("folder", 0o2770), ("folder/file", 0o660)):
        status = (tmp_path / name).stat()
        assert (status.st_gid, status.st_mode & 0o7777) == (4242, mode)
    assert os.stat("/etc/passwd").st_gid == passwd.st_gid


def test_failure_undoes_what_was_mounted(host: Host, tmp_path: Path) -> None:
    point = "/run/kata-containers/shared/containers/data"
    before = host.agent.mounts()
    storages = [bind(str(tmp_path), point), bind("/nonexistent", f"{point}2")]
    with pytest.raises(RpcError) as caught:
        host.create("c1", host.spec("true"), storages)
    assert "mount storage bind /nonexistent" in str(caught.value)
    with pytest.raises(RpcError, match="not found"):
        host.create("c1", host.spec("nope"), storages[:1])
    assert host.agent.mounts() == before
    host.create("c1", host.spec("true"), storages[:1])


@pytest.mark.parametrize("driver", ["scsi", "9p", "", "nonsense"])
def test_driver_that_is_not_there(host: Host, driver: str) -> None:
    with pytest.raises(RpcError) as caught:
        host.create("c1", host.spec("true"), [pb.Storage(driver=driver, mount_point=VOLUME)])
    assert caught.value.code == Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "path", ["", "/", "relative", "/run/../etc", "/run//x", "/run/x/", "/a\0b"]
)
def test_bad_mount_point(host: Host, path: str) -> None:
    with pytest.raises(RpcError) as caught:
        host.create("c1", host.spec("true"), [tmpfs(path)])
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_options() -> None:
    parsed = parse_options(["ro", "nosuid", "size=1m", "rbind", "rslave", "rw", "mode=755", ""])
    assert parsed.flags == syscalls.MS_NOSUID | syscalls.MS_BIND | syscalls.MS_REC
    assert parsed.propagation == (syscalls.MS_SLAVE | syscalls.MS_REC,)
    assert parsed.data == "size=1m,mode=755"
