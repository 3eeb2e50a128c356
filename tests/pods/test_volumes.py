"""Volumes of pods as kubelet gives them to a runtime: folders and files of the host."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.client import CriError
from tests.support.cri.pods import Pod

pytestmark = pytest.mark.e2e

# What the specification of the product promises for updates of volumes.
UPDATE_S = 2.0


def volume(source: Path, target: str = "/data", **fields: Any) -> dict[str, Any]:
    return {"mounts": [{"container_path": target, "host_path": str(source), **fields}]}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host; what a test mounted below it is taken away."""
    path = tmp_path / "volume"
    path.mkdir()
    yield path
    for place in (path / "sub", path):
        subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def test_a_folder_for_reading_and_writing(pod: Pod, folder: Path) -> None:
    (folder / "from-host").write_text("one")
    container = pod.run(**volume(folder))
    assert container.sh("cat /data/from-host; echo two > /data/from-pod") == "one"
    assert (folder / "from-pod").read_text() == "two\n"
    (folder / "later").write_text("three")
    assert container.sh("cat /data/later") == "three"


def test_owners_and_modes_are_kept(pod: Pod, folder: Path) -> None:
    container = pod.run(**volume(folder), run_as_user={"value": 1234}, run_as_group={"value": 55})
    os.chmod(folder, 0o1777)
    container.sh("umask 027; echo x > /data/file")
    status = (folder / "file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 55, 0o640)


def test_a_link_to_a_folder(pod: Pod, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    container = pod.run(**volume(tmp_path / "link"))
    container.sh("echo x > /data/file")
    assert (folder / "file").read_text() == "x\n"


def test_a_read_only_folder(pod: Pod, folder: Path) -> None:
    (folder / "file").write_text("kept")
    container = pod.run(**volume(folder, readonly=True))
    told = container.sh("(echo x > /data/file) 2>&1; touch /data/y 2>&1; cat /data/file")
    assert told.count("Read-only file system") == 2
    assert told.endswith("kept")
    assert (folder / "file").read_text() == "kept"
    assert not (folder / "y").exists()


def test_a_read_only_folder_with_a_mount_below(pod: Pod, folder: Path) -> None:
    (folder / "below").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder / "below")], check=True)
    try:
        container = pod.run(**volume(folder, readonly=True))
        told = container.sh("touch /data/x 2>&1; touch /data/below/x && echo written")
        assert told.count("Read-only file system") == 1
        assert told.endswith("written")
        assert (folder / "below" / "x").exists()
    finally:
        subprocess.run(["umount", "-l", str(folder / "below")], check=True)


def test_a_file(pod: Pod, folder: Path) -> None:
    (folder / "file").write_text("one\n")
    container = pod.run(**volume(folder / "file", "/etc/given"))
    assert container.sh("cat /etc/given; echo two >> /etc/given") == "one"
    assert (folder / "file").read_text() == "one\ntwo\n"
    (folder / "file").write_text("three\n")
    assert container.sh("cat /etc/given") == "three"


def test_a_read_only_file(pod: Pod, folder: Path) -> None:
    (folder / "file").write_text("one\n")
    container = pod.run(**volume(folder / "file", "/etc/given", readonly=True))
    told = container.sh("(echo two >> /etc/given) 2>&1; cat /etc/given")
    assert "Read-only file system" in told
    assert (folder / "file").read_text() == "one\n"


def test_two_containers_share_a_volume(pod: Pod, folder: Path) -> None:
    first, second = pod.run(**volume(folder)), pod.run(**volume(folder, "/other"))
    first.sh("echo one > /data/file")
    assert second.sh("cat /other/file; echo two > /other/file") == "one"
    assert first.sh("cat /data/file") == "two"


def test_a_folder_below_a_volume(pod: Pod, folder: Path) -> None:
    # A subPath: kubelet binds the folder to a place of its own and gives that.
    inner, bound = folder / "inner", folder / "sub"
    inner.mkdir()
    bound.mkdir()
    (inner / "file").write_text("one")
    (folder / "outside").write_text("hidden")
    subprocess.run(["mount", "--bind", str(inner), str(bound)], check=True)
    container = pod.run(**volume(bound))
    assert container.sh("ls /data; cat /data/file").split() == ["file", "one"]


def write_version(folder: Path, version: int) -> None:
    """Update a volume in one step as kubelet does: a new folder, and ..data points to it."""
    fresh = folder / f"..version{version}"
    fresh.mkdir()
    for name in ("key", "other"):
        (fresh / name).write_text(f"{name} {version}\n")
    (folder / "..data_tmp").symlink_to(fresh.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / "key").is_symlink():
        for name in ("key", "other"):
            (folder / name).symlink_to(f"..data/{name}")
    old = folder / f"..version{version - 1}"
    for path in old.glob("*"):
        path.unlink()
    if old.exists():
        old.rmdir()


def test_updates_of_a_config_map_are_seen_in_order(pod: Pod, folder: Path) -> None:
    write_version(folder, 1)
    script = 'while true; do a=$(cat /data/key); [ "$a" = "$b" ] || echo $a; b=$a; sleep 0.1; done'
    container = pod.run("sh", "-c", script, **volume(folder, readonly=True))
    container.wait_log("key 1\n")
    for version in (2, 3, 4):
        write_version(folder, version)
        container.wait_log(f"key {version}\n", UPDATE_S)
        assert container.sh("cat /data/other") == f"other {version}"
    seen = [line for line in container.log().splitlines() if line.startswith("key")]
    assert seen == [f"key {version}" for version in (1, 2, 3, 4)]


def test_a_config_map_is_a_folder_with_links(pod: Pod, folder: Path) -> None:
    write_version(folder, 1)
    container = pod.run(**volume(folder, readonly=True))
    assert container.sh("readlink /data/key; readlink /data/..data; cat /data/key") == (
        "..data/key\n..version1\nkey 1"
    )


def test_memory_with_a_size(pod: Pod, folder: Path) -> None:
    # An emptyDir in memory: kubelet mounts a tmpfs of the size.
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    subprocess.run(command, check=True)
    (folder / "file").write_text("from the host")
    container = pod.run(**volume(folder))
    told = container.sh("dd if=/dev/zero of=/data/big bs=1M count=20 2>&1; echo; rm /data/big")
    assert "No space left on device" in told
    container.sh("echo mine > /data/mine")
    other = pod.run(**volume(folder))
    assert other.sh("cat /data/mine") == "mine"


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """An emptyDir in memory, where and as kubelet makes it."""
    path = tmp_path / "volumes" / "kubernetes.io~empty-dir" / "cache"
    path.mkdir(parents=True)
    options = "size=8m,mode=2770,gid=77"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_an_empty_dir_in_memory_is_the_guests(pod: Pod, memory: Path) -> None:
    first, second = (pod.run(**volume(memory)) for _ in range(2))
    assert first.sh("stat -c '%a %u:%g' /data; stat -f -c %T /data") == "2770 0:77\ntmpfs"
    told = first.sh("dd if=/dev/zero of=/data/big bs=1M count=20 2>&1; echo; rm /data/big")
    assert "No space left on device" in told
    first.sh("echo mine > /data/mine; stat -c %g /data/mine")
    assert second.sh("cat /data/mine; stat -c %g /data/mine") == "mine\n77"
    assert list(memory.iterdir()) == []


def test_a_folder_of_an_empty_dir_in_memory(pod: Pod, memory: Path) -> None:
    (memory / "a" / "b").mkdir(parents=True)
    (memory / "a" / "b").chmod(0o750)
    whole = pod.run(**volume(memory))
    part = pod.run(**volume(memory / "a" / "b"))
    part.sh("echo inner > /data/file")
    assert whole.sh("stat -c %a /data/a/b; cat /data/a/b/file") == "2750\ninner"


def test_a_volume_outlives_a_container(pod: Pod, folder: Path) -> None:
    first = pod.run("sh", "-c", "echo kept > /data/file", **volume(folder))
    first.finish()
    assert pod.output("cat", "/data/file", **volume(folder)) == "kept\n"


def test_links_and_special_files(pod: Pod, folder: Path) -> None:
    script = "ln -s target /data/link; mkfifo /data/fifo; ln /data/file /data/hard; sync"
    (folder / "file").write_text("x")
    pod.output("sh", "-c", script, **volume(folder))
    assert os.readlink(folder / "link") == "target"
    assert (folder / "fifo").is_fifo()
    assert (folder / "hard").stat().st_ino == (folder / "file").stat().st_ino


def mount_below(folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder / "sub")], check=True)
    (folder / "sub/file").write_text("arrived")


def share(folder: Path) -> None:
    """Make the folder a mount that others may follow."""
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "--make-rshared", str(folder)], check=True)


def test_mounts_before_the_start_are_seen(pod: Pod, folder: Path) -> None:
    mount_below(folder)
    assert pod.output("cat", "/data/sub/file", **volume(folder)) == "arrived"


def test_later_mounts_of_the_host_stay_outside_of_a_private_volume(pod: Pod, folder: Path) -> None:
    (folder / "sub").mkdir()
    share(folder)
    container = pod.run(**volume(folder))
    mount_below(folder)
    assert container.sh("ls /data/sub") == ""


def test_later_mounts_of_the_host_arrive_where_they_are_wanted(pod: Pod, folder: Path) -> None:
    (folder / "sub").mkdir()
    share(folder)
    container = pod.run(**volume(folder, propagation=pb.PROPAGATION_HOST_TO_CONTAINER))
    mount_below(folder)
    deadline = time.monotonic() + UPDATE_S
    while container.sh("cat /data/sub/file 2>/dev/null; true") != "arrived":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_mounts_from_a_container_to_the_host_are_refused(pod: Pod, folder: Path) -> None:
    share(folder)
    fields = volume(folder, propagation=pb.PROPAGATION_BIDIRECTIONAL)
    with pytest.raises(CriError, match=r"/data.*(rshared|propagation)"):
        pod.run(privileged=False, **fields)


def test_a_volume_that_does_not_exist_is_made_by_containerd(pod: Pod, folder: Path) -> None:
    # As with runc: kubelet has checked what may be missing before it asks.
    container = pod.run(**volume(folder / "missing"))
    assert container.sh("ls /data") == ""
    assert (folder / "missing").is_dir()
