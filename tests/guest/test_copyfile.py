"""Copied files: chunks, kinds, and paths that try to leave."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.guest.copyfile import copy, split_path
from kata.rpc.pb import agent_pb2 as pb


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "containers"


def send(root: Path, name: str, data: bytes = b"", **fields: int) -> None:
    fields = {"file_size": len(data), "file_mode": stat.S_IFREG | 0o640, **fields}
    copy(pb.CopyFileRequest(path=f"{root}/{name}", data=data, **fields), str(root))


def test_file(root: Path) -> None:
    send(root, "a/b/f", b"hello", uid=3, gid=4, dir_mode=0o711)
    status = (root / "a/b/f").stat()
    assert (root / "a/b/f").read_bytes() == b"hello"
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3, 4, 0o640)
    assert stat.S_IMODE((root / "a/b").stat().st_mode) == 0o711
    assert os.listdir(root / "a/b") == ["f"]


def test_file_in_chunks_has_no_name_before_its_end(root: Path) -> None:
    send(root, "f", b"old")
    send(root, "f", b"abc", file_size=8, offset=0)
    assert (root / "f").read_bytes() == b"old"
    send(root, "f", b"def", file_size=8, offset=3)
    send(root, "f", b"gh", file_size=8, offset=6)
    assert (root / "f").read_bytes() == b"abcdefgh"
    assert os.listdir(root) == ["f"]


def test_empty_file_and_long_name(root: Path) -> None:
    send(root, "n" * 255)
    assert (root / ("n" * 255)).read_bytes() == b""


def test_folder_and_link(root: Path) -> None:
    send(root, "..data", file_mode=stat.S_IFDIR | 0o751)
    assert stat.S_IMODE((root / "..data").stat().st_mode) == 0o751
    send(root, "..data", file_mode=stat.S_IFDIR | 0o700)
    send(root, "link", b"..data/key", file_mode=stat.S_IFLNK | 0o777)
    send(root, "link", b"..data/other", file_mode=stat.S_IFLNK | 0o777)
    assert (root / "link").readlink() == Path("..data/other")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{root}",
        "{root}/",
        "{root}/../x",
        "{root}/a/../../x",
        "{root}//x",
        "{root}x/y",
        "{root}/a/./b",
        "{root}/x\0",
        "x",
        "",
    ],
)
def test_path_outside_is_refused(root: Path, path: str) -> None:
    request = pb.CopyFileRequest(path=path.format(root=root), data=b"x", file_size=1)
    with pytest.raises(KataError) as caught:
        copy(request, str(root))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("mine")
    send(root, "out", str(outside).encode(), file_mode=stat.S_IFLNK | 0o777)
    send(root, "up", b"../../outside", file_mode=stat.S_IFLNK | 0o777)
    for name in ("out/f", "up/f", "out/new/f"):
        with pytest.raises(KataError) as caught:
            send(root, name, b"theirs")
        assert caught.value.code == Code.INVALID_ARGUMENT
    send(root, "file", str(outside / "f").encode(), file_mode=stat.S_IFLNK | 0o777)
    send(root, "file", b"replaced")
    assert (root / "file").read_bytes() == b"replaced"
    assert (outside / "f").read_text() == "mine"
    assert os.listdir(outside) == ["f"]


@pytest.mark.parametrize(
    "fields",
    [
        {"offset": -1, "file_size": 9},
        {"offset": 0, "file_size": 2},
        {"offset": 5, "file_size": 9},
        {"file_size": -1},
        {"file_mode": stat.S_IFCHR | 0o600},
        {"file_mode": stat.S_IFIFO | 0o600},
    ],
)
def test_chunk_that_does_not_fit(root: Path, fields: dict[str, int]) -> None:
    send(root, "f", b"ab", file_size=9)
    with pytest.raises(KataError) as caught:
        send(root, "f", b"xyz", **fields)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert not (root / "f").exists()


def test_chunk_without_its_beginning(root: Path) -> None:
    with pytest.raises(KataError):
        send(root, "f", b"xyz", offset=5, file_size=8)
    assert not (root / "f").exists()


@given(st.text(alphabet="a./\0\n", max_size=12))
def test_split_path_never_leaves(text: str) -> None:
    try:
        folders, name = split_path(f"/root/{text}", "/root")
    except KataError:
        return
    joined = os.path.normpath("/".join(["/root", *folders, name]))
    assert joined == f"/root/{text}"
    assert ".." not in joined.split("/")
