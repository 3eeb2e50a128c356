"""Volumes that are given to guests as disks: kata-runtime direct-volume."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kata.base.directvolume import ROOT
from tests.oci.conftest import BundleMaker
from tests.support.ids import make_id
from tests.support.runtime import Bundle, Runtime
from tests.support.sandboxes import SHIM, kill

pytestmark = pytest.mark.e2e

MIB = 1 << 20


@dataclass(frozen=True)
class Volume:
    """A file system in a file, and the path that stands for it."""

    disk: Path
    path: str

    def mount(self, *options: str) -> dict[str, Any]:
        return {
            "destination": "/data",
            "type": "bind",
            "source": self.path,
            "options": ["rbind", *options],
        }

    def read(self, name: str) -> str:
        """Return a file of it, once no machine has it any more."""
        argv = ["debugfs", "-R", f"cat /{name}", str(self.disk)]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def volume(runtime: Runtime, tmp_path: Path) -> Iterator[Volume]:
    disk = tmp_path / "disk"
    with open(disk, "wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", str(disk)], check=True)
    volume = Volume(disk, str(tmp_path / "volume"))  # which need not even exist
    add(runtime, volume)
    yield volume
    runtime.call("direct-volume", "remove", "--volume-path", volume.path)
    runtime.call("direct-volume", "remove", "--volume-path", volume.path)
    assert not os.path.exists(ROOT) or not os.listdir(ROOT)


def describe(volume: Volume, **more: object) -> str:
    return json.dumps(
        {"volume-type": "block", "device": str(volume.disk), "fstype": "ext4", **more}
    )


def add(runtime: Runtime, volume: Volume, **more: object) -> None:
    """Say what it is."""
    info = ("--mount-info", describe(volume, **more))
    runtime.call("direct-volume", "add", "--volume-path", volume.path, *info)


def start(runtime: Runtime, bundle: Bundle, name: str, volume: Volume, *options: str) -> None:
    bundle.spec["mounts"].append(volume.mount(*options))
    runtime.create(bundle.run("sleep", "1000"), name)
    runtime.call("start", name)


def create(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> subprocess.CompletedProcess[str]:
    """Try to create a container that mounts a volume."""
    bundle.spec["mounts"].append(volume.mount())
    bundle.run("true")
    return runtime.call("create", "-b", str(bundle.folder), name, check=False)


def inside(runtime: Runtime, name: str, script: str) -> str:
    return runtime.call("exec", name, "sh", "-c", script).stdout.strip()


def total_bytes(runtime: Runtime, volume: Volume) -> int:
    stats = json.loads(runtime.call("direct-volume", "stats", "--volume-path", volume.path).stdout)
    assert [each["unit"] for each in stats["usage"]] == [1, 2]  # bytes, inodes
    used, free = stats["usage"][0]["used"], stats["usage"][0]["available"]
    total = int(stats["usage"][0]["total"])
    assert 0 < used + free <= total
    return total


def test_a_disk_is_written_measured_and_grown(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    start(runtime, bundle, name, volume)
    assert " ext4 " in inside(runtime, name, "grep /data /proc/mounts")
    inside(runtime, name, "echo words > /data/file")
    assert 24 * MIB < total_bytes(runtime, volume) < 32 * MIB
    resize = ("direct-volume", "resize", "--volume-path", volume.path, "--size")
    refused = runtime.call(*resize, str(MIB), check=False)
    assert f"resize {volume.disk} to {MIB} bytes: it has {32 * MIB}" in refused.stderr
    assert volume.disk.stat().st_size == 32 * MIB
    runtime.call(*resize, str(64 * MIB))
    assert volume.disk.stat().st_size == 64 * MIB
    assert 50 * MIB < total_bytes(runtime, volume) < 64 * MIB
    runtime.call("delete", "--force", name)
    assert volume.read("file") == "words\n"
    refused = runtime.call("direct-volume", "stats", "--volume-path", volume.path, check=False)
    assert f"find volume {volume.path}: no sandbox uses it" in refused.stderr


def test_a_group_and_reading_only(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    add(runtime, volume, metadata={"fsGroup": "4321", "fsGroupChangePolicy": "Always"})
    start(runtime, bundle, name, volume, "ro")
    assert inside(runtime, name, "stat -c %g /data") == "4321"
    done = runtime.call("exec", name, "touch", "/data/x", check=False)
    assert "Read-only file system" in done.stderr


def test_containers_of_a_pod_share_a_disk(
    runtime: Runtime, make_bundle: BundleMaker, name: str, volume: Volume
) -> None:
    """It is plugged in once, and goes with the last of them."""
    runtime.start_pod(make_bundle(), name)
    members = [make_id("member a"), make_id("member b")]
    for member in members:
        start(runtime, make_bundle().join(name), member, volume)
    inside(runtime, members[0], "echo shared > /data/file")
    runtime.call("delete", "--force", members[0])
    assert inside(runtime, members[1], "cat /data/file") == "shared"
    total_bytes(runtime, volume)  # which the other's end has not changed
    other = replace(volume, disk=volume.disk.with_name("other"))
    other.disk.write_bytes(volume.disk.read_bytes())
    add(runtime, other)
    refused = create(runtime, make_bundle().join(name), make_id("member c"), volume)
    assert f"{volume.disk} is in use as {volume.path}" in refused.stderr
    add(runtime, volume)
    total_bytes(runtime, volume)
    runtime.call("delete", "--force", members[1])
    assert volume.read("file") == "shared\n"  # the machine runs on, without the disk
    start(runtime, make_bundle().join(name), members[0], volume)
    assert inside(runtime, members[0], "cat /data/file") == "shared"
    for each in (members[0], name):
        runtime.call("delete", "--force", each)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ("{", "invalid JSON"),
        ("[]", "it is no object"),
        ('{"volume-type": "spdkvol"}', "volume-type 'spdkvol' is not supported"),
        ('{"volume-type": "block"}', "device is missing"),
        ('{"volume-type": "block", "device": "x", "fstype": "ext4"}', "no absolute path"),
        (
            '{"volume-type": "block", "device": "/x", "fstype": "ext4", "options": "ro"}',
            "are no list of texts",
        ),
        (
            '{"volume-type": "block", "device": "/x", "fstype": "e", "metadata": {"fsGroup": "a"}}',
            "fsGroup 'a' is no number",
        ),
        (
            '{"volume-type": "block", "device": "/x", "fstype": "e",'
            ' "metadata": {"encryptionKey": "k"}}',
            "metadata encryptionKey is not supported",
        ),
    ],
)
def test_what_is_no_volume(runtime: Runtime, tmp_path: Path, info: str, reason: str) -> None:
    path = ("--volume-path", str(tmp_path / "v"))
    refused = runtime.call("direct-volume", "add", *path, "--mount-info", info, check=False)
    assert refused.returncode == 1
    assert reason in refused.stderr
    known = runtime.call("direct-volume", "stats", *path, check=False)
    assert "it was not added" in known.stderr


def test_wrong_words(runtime: Runtime, tmp_path: Path) -> None:
    for words, reason in (
        (("add",), "--volume-path is missing"),
        (("add", "--volume-path", "/v"), "--mount-info is missing"),
        (("add", "--volume-path", "v", "--mount-info", "{"), "read mount info: invalid JSON"),
        (("stats", "--volume-path", "v"), "find volume 'v': no absolute path"),
        (("stats", "--volume-path", f"/{'v' * 300}"), "the path is too long"),
        (("resize", "--volume-path", "/v"), "--size is missing"),
        (("mount", "--volume-path", "/v"), "'mount' is not add, remove, stats or resize"),
    ):
        refused = runtime.call("direct-volume", *words, check=False)
        assert (refused.returncode, reason in refused.stderr) == (1, True), refused


def test_a_disk_that_is_not_there(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    volume.disk.unlink()
    refused = create(runtime, bundle, name, volume)
    assert f"plug disk {volume.disk}: No such file or directory" in refused.stderr
    refused = runtime.call("direct-volume", "stats", "--volume-path", volume.path, check=False)
    assert "no sandbox uses it" in refused.stderr


def test_a_disk_without_a_file_system(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    volume.disk.write_bytes(bytes(MIB))
    refused = create(runtime, bundle, name, volume)
    assert "mount storage blk" in refused.stderr


def test_a_note_that_others_can_write(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    (note,) = Path(ROOT).glob("*/mountInfo.json")
    note.chmod(0o666)
    refused = create(runtime, bundle, name, volume)
    assert "others can write it" in refused.stderr


def test_notes_of_a_killed_shim_go_with_its_leftovers(
    runtime: Runtime, bundle: Bundle, name: str, volume: Volume
) -> None:
    start(runtime, bundle, name, volume)
    (note,) = Path(ROOT).glob(f"*/{name}")
    kill(name, SHIM)
    runtime.wait_for_status(name, "stopped")
    runtime.call("delete", "--force", name)
    assert not note.exists()
