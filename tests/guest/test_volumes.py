"""Volumes that the host keeps in step: what the agent makes of a snapshot."""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.guest.volumes import synchronize
from kata.host.share.watched import FIRST_MAX_BYTES, TooLargeError, is_watched, take_snapshot
from kata.rpc.pb import volumes_pb2 as pb

ALL_EVENTS = 0xFFF & ~0x31  # but for reading: access, open, close without writing


def entry(
    path: str, content: bytes = b"", kind: int = stat.S_IFREG, mode: int = 0o644
) -> pb.VolumeEntry:
    return pb.VolumeEntry(
        path=path, mode=kind | mode, uid=os.getuid(), gid=os.getgid(), content=content
    )


def folder(path: str) -> pb.VolumeEntry:
    return entry(path, kind=stat.S_IFDIR, mode=0o755)


def link(path: str, target: bytes) -> pb.VolumeEntry:
    return entry(path, target, stat.S_IFLNK, 0o777)


def sync(root: Path, *entries: pb.VolumeEntry, name: str = "v") -> None:
    synchronize(pb.SyncRequest(name=name, entries=entries), str(root))


def version(stamp: str, text: bytes) -> list[pb.VolumeEntry]:
    """A volume as kubelet writes it."""
    return [
        folder("."),
        folder(stamp),
        entry(f"{stamp}/key", text),
        link("..data", stamp.encode()),
        link("key", b"..data/key"),
    ]


def test_a_snapshot_is_made(tmp_path: Path) -> None:
    sync(tmp_path, *version("..1", b"one"))
    assert (tmp_path / "v/key").read_text() == "one"
    sync(tmp_path, *version("..2", b"two"))
    assert (tmp_path / "v/key").read_text() == "two"
    assert sorted(os.listdir(tmp_path / "v")) == ["..2", "..data", "key"]


def test_owner_and_mode_are_the_hosts(tmp_path: Path) -> None:
    wanted = pb.VolumeEntry(path="f", mode=stat.S_IFREG | 0o4751, uid=5, gid=6, content=b"x")
    sync(tmp_path, folder("."), wanted)
    found = os.stat(tmp_path / "v/f")
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o4751, 5, 6)


class Watch:
    """Counts what inotify tells of a folder."""

    def __init__(self, path: Path) -> None:
        self._fd = syscalls.inotify_init()
        syscalls.inotify_add_watch(self._fd, str(path), ALL_EVENTS)

    def read(self) -> bytes:
        if not select.select([self._fd], [], [], 0.2)[0]:
            return b""
        return os.read(self._fd, 1 << 16)

    def close(self) -> None:
        os.close(self._fd)


def test_the_same_again_is_no_change(tmp_path: Path) -> None:
    sync(tmp_path, *version("..1", b"one"))
    watch = Watch(tmp_path / "v")
    sync(tmp_path, *version("..1", b"one"))
    assert watch.read() == b""
    sync(tmp_path, *version("..2", b"two"))
    told = watch.read()
    # The new folder, the switch, the end of the old folder; the key's own link stays.
    assert told.index(b"..2\0") < told.index(b"..data\0") < told.rindex(b"..1\0")
    assert b"key\0" not in told
    watch.close()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (entry("x", b"file"), link("x", b"..")),
        (link("x", b"/etc/passwd"), entry("x", b"file")),
        (folder("x"), entry("x", b"file")),
        (entry("x", b"file"), folder("x")),
        (folder("x"), link("x", b"y")),
    ],
)
def test_an_entry_of_another_kind(
    tmp_path: Path, before: pb.VolumeEntry, after: pb.VolumeEntry
) -> None:
    sync(tmp_path, folder("."), before)
    sync(tmp_path, folder("."), after)
    assert stat.S_IFMT(os.lstat(tmp_path / "v/x").st_mode) == stat.S_IFMT(after.mode)


def test_what_is_gone_is_removed_whole(tmp_path: Path) -> None:
    sync(tmp_path, folder("."), folder("a"), folder("a/b"), entry("a/b/c", b"x"), entry("d"))
    sync(tmp_path, folder("."), entry("d"))
    assert os.listdir(tmp_path / "v") == ["d"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(KataError) as caught:
        sync(tmp_path, folder("."), name=name)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("path", ["", "..", "../x", "a/../b", "/etc/x", "a//b", "a/.", "a\0b"])
def test_a_bad_path_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(KataError, match="bad path"):
        sync(tmp_path, folder("."), entry(path))


def test_links_that_a_container_has_made_lead_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    sync(tmp_path, folder("."), folder("a"), entry("a/b", b"x"))
    (tmp_path / "v/a/b").unlink()
    (tmp_path / "v/a").rmdir()
    (tmp_path / "v/a").symlink_to(outside)
    sync(tmp_path, folder("."), folder("a"), entry("a/b", b"x"))
    assert os.listdir(outside) == ["kept"]
    (tmp_path / "v/link").symlink_to(outside)
    sync(tmp_path, folder("."))
    assert (outside / "kept").read_text() == "kept"
    assert os.listdir(tmp_path / "v") == []


def test_a_volume_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "v").symlink_to(tmp_path / "outside")
    with pytest.raises(OSError, match="Not a directory"):
        sync(tmp_path, folder("."), entry("x"))
    assert os.listdir(tmp_path / "outside") == []


TREES = st.dictionaries(
    st.sampled_from(["a", "b", "..data", "a/x", "a/y", "..1/z"]), st.binary(max_size=8), max_size=6
)


@given(first=TREES, second=TREES)
def test_any_snapshot_follows_any_other(
    tmp_path_factory: pytest.TempPathFactory, first: dict[str, bytes], second: dict[str, bytes]
) -> None:
    """Written on the host, read by the host's reader, made by the agent's: the same tree."""
    base = tmp_path_factory.mktemp("t")
    for number, tree in enumerate((first, second)):
        source = base / f"source{number}"
        source.mkdir()
        for path, content in tree.items():
            if path == "a" and any(other.startswith("a/") for other in tree):
                continue
            (source / path).parent.mkdir(exist_ok=True)
            if path == "..data":
                (source / path).symlink_to("a")
            else:
                (source / path).write_bytes(content)
        snapshot = read(source)
        sync(base, *snapshot)
        assert read(base / "v") == snapshot


def read(path: Path) -> list[pb.VolumeEntry]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return take_snapshot(fd, 1 << 20)
    finally:
        os.close(fd)


# What the host takes for such a volume.


@pytest.mark.parametrize("kind", ["configmap", "secret", "projected", "downward-api"])
def test_kubelets_volumes_are_watched(tmp_path: Path, kind: str) -> None:
    volume = tmp_path / f"kubernetes.io~{kind}" / "name"
    volume.mkdir(parents=True)
    assert is_watched(str(volume))
    assert is_watched(f"{volume}/")
    (volume / "file").write_text("x")
    assert not is_watched(f"{volume}/file")
    assert not is_watched(f"{volume}-missing")
    (volume / "large").write_bytes(bytes(FIRST_MAX_BYTES))
    assert not is_watched(str(volume))


@pytest.mark.parametrize("kind", ["kubernetes.io~empty-dir", "configmap", "kubernetes.io~nfs"])
def test_other_folders_are_not_watched(tmp_path: Path, kind: str) -> None:
    (tmp_path / kind / "name").mkdir(parents=True)
    assert not is_watched(f"{tmp_path}/{kind}/name")


def test_too_many_entries_are_too_large(tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / str(number)).touch()
    with pytest.raises(TooLargeError):
        read(tmp_path)


def test_a_folder_that_is_missing_is_no_volume() -> None:
    assert not is_watched("/")
    assert not is_watched("")
