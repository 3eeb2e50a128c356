"""Templates on disk, and a guest's memory as a file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.host.template import store as store_module
from kata.host.template.key import template_key
from kata.host.template.memory import Copying, copy_data, copy_pages, make_memory
from kata.host.template.store import Store

PAGE = 4096
STATE = b"processors and devices" * 100


def make_filled(pages: dict[int, bytes], count: int = 64) -> int:
    fd = make_memory(count * PAGE)
    for number, byte in pages.items():
        os.pwrite(fd, byte * PAGE, number * PAGE)
    return fd


@pytest.fixture
def memory() -> Iterator[int]:
    fd = make_filled({0: b"a", 7: b"b", 63: b"c"})
    yield fd
    os.close(fd)


@pytest.fixture
def saved(tmp_path: Path, memory: int) -> Store:
    made = Store(str(tmp_path / "templates"))
    made.save("k1", memory, STATE)
    return made


def read_back(store: Store, key: str = "k1") -> tuple[bytes, bytes]:
    template = store.open(key)
    assert template is not None
    try:
        return os.pread(template.memory_fd, template.memory_bytes, 0), template.state
    finally:
        template.close()


def test_copy_on_a_thread_of_its_own(memory: int) -> None:
    target = make_memory(64 * PAGE)
    copying = Copying(memory, target)
    copying.wait()
    copying.join()
    assert os.pread(target, 64 * PAGE, 0) == os.pread(memory, 64 * PAGE, 0)
    os.close(target)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.integers(0, 63), st.sampled_from([b"\0", b"x", b"\xff"])))
def test_copies_hold_what_the_original_does(pages: dict[int, bytes]) -> None:
    source = make_filled(pages)
    copies = [make_memory(64 * PAGE), make_memory(64 * PAGE)]
    try:
        assert copy_data(source, copies[0]) == len(pages) * PAGE
        full = [number for number, byte in pages.items() if byte != b"\0"]
        assert copy_pages(source, copies[1]) == len(full) * PAGE
        wanted = os.pread(source, 64 * PAGE, 0)
        assert all(os.pread(copy, 64 * PAGE, 0) == wanted for copy in copies)
        assert os.fstat(copies[1]).st_blocks * 512 == len(full) * PAGE
    finally:
        for fd in (source, *copies):
            os.close(fd)


def test_memory_without_room_is_refused_by_name(tmp_path: Path, memory: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "none", str(tmp_path)], check=True)
    try:
        target = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
        os.ftruncate(target, 64 * PAGE)
        with pytest.raises(KataError, match="copy memory: No space left") as caught:
            copy_data(memory, target)
        copying = Copying(memory, target)
        with pytest.raises(KataError, match="copy memory: No space left"):
            copying.wait()
        os.close(target)
        with pytest.raises(KataError, match="copy memory: No space left"):
            Store(str(tmp_path / "templates")).save("k1", memory, STATE)
        assert os.listdir(tmp_path / "templates") == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED


def test_what_was_saved_is_found(saved: Store, memory: int) -> None:
    assert saved.has("k1")
    assert read_back(saved) == (os.pread(memory, 64 * PAGE, 0), STATE)


def test_another_key_is_not_found(saved: Store) -> None:
    assert saved.open("k2") is None


def test_the_first_one_saved_stays(saved: Store) -> None:
    other = make_filled({1: b"z"})
    saved.save("k1", other, b"other")
    os.close(other)
    assert read_back(saved)[1] == STATE


def cut(path: Path) -> None:
    os.truncate(path / "memory", 3 * PAGE)


def change_memory(path: Path) -> None:
    with open(path / "memory", "r+b") as file:
        file.write(b"!")


def change_state(path: Path) -> None:
    (path / "state").write_bytes(b"!" + STATE[1:])


def lose_memory(path: Path) -> None:
    (path / "memory").unlink()


def lose_state(path: Path) -> None:
    (path / "state").unlink()


def spoil_note(path: Path) -> None:
    (path / "template.json").write_text("{")


def replace_note(path: Path) -> None:
    (path / "template.json").write_text("[]")


@pytest.mark.parametrize(
    "spoil",
    [cut, change_memory, change_state, lose_memory, lose_state, spoil_note, replace_note],
)
def test_one_that_was_spoilt_is_removed_and_told(
    saved: Store, tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    spoil(tmp_path / "templates/k1")
    with pytest.raises(KataError, match=r"use template .*/k1: ") as caught:
        saved.open("k1")
    assert caught.value.code == Code.DATA_LOSS
    assert os.listdir(tmp_path / "templates") == []
    assert saved.open("k1") is None


def test_one_in_use_can_be_discarded(saved: Store) -> None:
    template = saved.open("k1")
    assert template is not None
    saved.discard("k1")
    assert os.pread(template.memory_fd, 1, 0) == b"a"
    template.close()
    assert not saved.has("k1")


def test_the_least_recently_used_go(
    saved: Store, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_KEPT", 2)
    saved.save("k2", memory, STATE)
    read_back(saved, "k1")
    saved.save("k3", memory, STATE)
    assert [saved.has(key) for key in ("k1", "k2", "k3")] == [True, False, True]


def test_drafts_of_killed_processes_are_swept(saved: Store, tmp_path: Path) -> None:
    gone = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    dead = tmp_path / f"templates/.{gone.stdout.strip()}.k9"
    living = tmp_path / f"templates/.{os.getpid()}.k9"
    for draft in (dead, living):
        draft.mkdir()
        (draft / "memory").touch()
    saved.sweep()
    assert not dead.exists()
    assert living.exists()
    assert saved.has("k1")


def test_clearing_removes_all(saved: Store, tmp_path: Path) -> None:
    saved.clear()
    assert os.listdir(tmp_path / "templates") == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, memory: int) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(KataError, match=r"keep template in .*/file/below: Not a directory"):
        Store(str(tmp_path / "file/below")).save("k1", memory, STATE)


def test_the_key_tells_machines_and_files_apart(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"one")
    first = template_key({"memory": 1}, [str(kernel)])
    assert template_key({"memory": 1}, [str(kernel)]) == first
    assert template_key({"memory": 2}, [str(kernel)]) != first
    kernel.write_bytes(b"two!")
    second = template_key({"memory": 1}, [str(kernel)])
    assert second != first
    newer = tmp_path / "newer"
    newer.write_bytes(b"two!")
    newer.rename(kernel)
    assert template_key({"memory": 1}, [str(kernel)]) != second
    with pytest.raises(FileNotFoundError):
        template_key({}, [str(tmp_path / "missing")])
