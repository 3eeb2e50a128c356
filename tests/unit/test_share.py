"""The shared folder's clean-up never touches what lies behind a mount."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base import mountinfo, syscalls
from kata.base.errors import Code, KataError
from kata.base.hostview import HostView
from kata.base.ids import check_id
from kata.host.sandbox.cleanup import unmount_rootfs
from kata.host.share import layout
from kata.host.share.virtiofsd import Flavour, ShareSpec, find_flavour, plan_arguments

SPEC = ShareSpec("/usr/bin/virtiofsd", "/shared", "auto", ("--extra",))


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A folder with data and an empty file; both must be there at the end."""
    folder = tmp_path / "volume"
    (folder / "empty folder").mkdir(parents=True)
    (folder / "data").write_text("data")
    (folder / "empty").touch()
    yield folder
    for point in mountinfo.find_mounts_below(str(tmp_path)):
        syscalls.umount(point, syscalls.MNT_DETACH)
    assert sorted(os.listdir(folder)) == ["data", "empty", "empty folder"]


def bind(source: Path, target: str, *, read_only: bool = False) -> None:
    tree = HostView().clone(str(source), recursive=True, follows=False)
    layout.bind_into_share(tree, target, read_only=read_only)
    os.close(tree)


@pytest.fixture
def share(tmp_path: Path, volume: Path) -> Path:
    """A skeleton with a folder and a file of the volume bound into it."""
    base = tmp_path / "share"
    for name, source in (("folder", volume), ("file", volume / "data")):
        target = f"{base}/deep/{name}"
        bind(source, target)
    return base


def test_skeleton_behind_a_live_mount_stays(share: Path, volume: Path) -> None:
    with pytest.raises(KataError) as caught:
        layout.remove_skeleton(str(share))
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert "still mounted" in str(caught.value)
    assert (share / "deep/folder/data").read_text() == "data"


def test_skeleton_goes_after_its_mounts(share: Path) -> None:
    layout.unmount_below(str(share))
    layout.remove_skeleton(str(share))
    assert not share.exists()


def test_two_may_take_down_the_same_at_the_same_time(tmp_path: Path, volume: Path) -> None:
    base = tmp_path / "share"
    for number in range(100):
        bind(volume, f"{base}/{number}/deep/folder")
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def take_down() -> None:
        start.wait()
        try:
            layout.unmount_below(str(base))
            layout.remove_skeleton(str(base))
        except BaseException as error:  # noqa: BLE001  # what the test is about
            failures.append(error)

    threads = [threading.Thread(target=take_down) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not base.exists()


def test_files_with_content_are_not_skeleton(share: Path) -> None:
    layout.unmount_below(str(share))
    (share / "deep/folder/precious").write_text("x")
    with pytest.raises(OSError, match="not empty"):
        layout.remove_skeleton(str(share))
    assert (share / "deep/folder/precious").read_text() == "x"


def test_no_skeleton_is_fine(tmp_path: Path) -> None:
    layout.remove_skeleton(f"{tmp_path}/nothing")


def test_read_only_bind(tmp_path: Path, volume: Path) -> None:
    target = tmp_path / "ro"
    bind(volume, str(target), read_only=True)
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()


def test_missing_source_is_named() -> None:
    with pytest.raises(OSError, match="/nonexistent/volume"):
        HostView().clone("/nonexistent/volume", recursive=True, follows=False)


def test_rootfs_is_unmounted_with_all_on_it(tmp_path: Path, volume: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    for _ in range(2):
        syscalls.mount(str(volume), f"{tmp_path}/rootfs", "", syscalls.MS_BIND)
    unmount_rootfs(str(tmp_path))
    assert mountinfo.find_mounts_below(str(tmp_path)) == []


def test_arguments_of_the_c_virtiofsd() -> None:
    assert plan_arguments(SPEC, Flavour.C, 3, 1000) == [
        "/usr/bin/virtiofsd", "--fd=3", "-f", "-o", "source=/shared", "-o", "cache=auto",
        "-o", "announce_submounts", "-o", "sandbox=namespace", "--rlimit-nofile=1000", "--extra",
    ]  # fmt: skip


def test_arguments_of_the_rust_virtiofsd() -> None:
    assert plan_arguments(SPEC, Flavour.RUST, 3, 1000) == [
        "/usr/bin/virtiofsd", "--fd=3", "--shared-dir=/shared", "--cache=auto",
        "--announce-submounts", "--sandbox=namespace", "--xattr",
        "--xattrmap=:ok:all:security.capability:security.capability:"
        ":prefix:all:trusted.:user.virtiofs.::prefix:all:security.:user.virtiofs.:"
        ":bad:client:user.virtiofs.:::bad:server::trusted.::bad:server::security.::ok:all:::",
        "--inode-file-handles=prefer", "--rlimit-nofile=1000", "--extra",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "flavour"),
    [
        ("virtiofsd version 7.2.9 (Debian 1:7.2+dfsg-7)", Flavour.C),
        ("using FUSE kernel interface version 7.36", Flavour.C),
        ("virtiofsd 1.13.0", Flavour.RUST),
        ("virtiofsd backend 1.4.0", Flavour.RUST),
    ],
)
def test_flavour(tmp_path: Path, answer: str, flavour: Flavour) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)
    assert find_flavour(str(program)) is flavour


def test_flavour_of_something_else() -> None:
    with pytest.raises(KataError, match="/bin/echo"):
        find_flavour("/bin/echo")


@pytest.mark.parametrize(
    ("flavour", "asked", "said"),
    [
        (Flavour.C, "never", "cache=none"),
        (Flavour.C, "always", "cache=always"),
        (Flavour.RUST, "none", "--cache=never"),
        (Flavour.RUST, "metadata", "--cache=metadata"),
    ],
)
def test_cache_mode_in_the_daemons_words(flavour: Flavour, asked: str, said: str) -> None:
    spec = ShareSpec("/usr/bin/virtiofsd", "/shared", asked, ())
    assert said in plan_arguments(spec, flavour, 3, 1000)


def test_cache_mode_that_the_daemon_does_not_have() -> None:
    spec = ShareSpec("/usr/bin/virtiofsd", "/shared", "metadata", ())
    with pytest.raises(KataError, match="metadata"):
        plan_arguments(spec, Flavour.C, 3, 1000)


def test_no_name_is_given_twice() -> None:
    names = layout.ShareNames()
    assert [names.take(name) for name in ("c1", "c2", "c1", "c1")] == ["c1", "c2", "c1~2", "c1~3"]
    with pytest.raises(KataError):
        check_id("container", "c1~2")
