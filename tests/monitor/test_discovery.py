"""Sandboxes come and go, in real folders."""

from __future__ import annotations

import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from kata.base.errors import KataError
from kata.base.statefolder import SOCKET
from kata.monitor.discovery import Discovery

TIMEOUT_S = 30.0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "kata"
    folder.mkdir()
    return folder


@pytest.fixture
def discovery(root: Path) -> Iterator[Discovery]:
    with closing(Discovery(str(root))) as discovery:
        yield discovery


def add_socket(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(folder / SOCKET))


def follow(discovery: Discovery, *wanted: str) -> None:
    """Wait, by events alone, until these sandboxes are the ones that run."""
    deadline = time.monotonic() + TIMEOUT_S
    while sorted(discovery.sandboxes) != sorted(wanted):
        ready, _, _ = select.select([discovery], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, (discovery.sandboxes, wanted)
        discovery.update()


def test_those_that_run_already(root: Path) -> None:
    for name in ("b", "a"):
        add_socket(root / name)
    with closing(Discovery(str(root))) as discovery:
        assert list(discovery.sandboxes) == ["a", "b"]
        assert discovery.sandboxes["a"].socket_path == f"{root}/a/{SOCKET}"


def test_a_sandbox_counts_from_its_socket_until_its_folder_goes(
    root: Path, discovery: Discovery
) -> None:
    (root / "a").mkdir()
    (root / "b").mkdir()
    add_socket(root / "b")
    follow(discovery, "b")
    add_socket(root / "a")
    follow(discovery, "a", "b")
    shutil.rmtree(root / "b")
    follow(discovery, "a")


def test_drafts_and_files_are_no_sandboxes(root: Path, discovery: Discovery) -> None:
    add_socket(root / ".draft")
    (root / "factory.log").touch()
    (root / "-x").mkdir()
    add_socket(root / "last")
    follow(discovery, "last")


def test_a_draft_that_is_renamed(root: Path, discovery: Discovery) -> None:
    add_socket(root / ".draft")
    (root / ".draft").rename(root / "a")
    follow(discovery, "a")
    (root / "a").rename(root / "b")
    follow(discovery, "b")


def test_a_waiting_machine_that_gets_its_name_before_its_socket(
    root: Path, discovery: Discovery
) -> None:
    (root / "spare-1").mkdir()
    discovery.update()
    (root / "spare-1").rename(root / "a")
    discovery.update()
    add_socket(root / "a")
    follow(discovery, "a")


def test_another_sandbox_of_the_same_name_is_another(root: Path, discovery: Discovery) -> None:
    add_socket(root / "a")
    follow(discovery, "a")
    before = discovery.sandboxes["a"]
    shutil.rmtree(root / "a")
    add_socket(root / "a")
    deadline = time.monotonic() + TIMEOUT_S
    while discovery.sandboxes.get("a") in (before, None):
        assert time.monotonic() < deadline
        select.select([discovery], [], [], 1.0)
        discovery.update()


def test_the_root_comes_goes_and_comes_again(tmp_path: Path) -> None:
    root = tmp_path / "late"
    with closing(Discovery(str(root))) as discovery:
        (tmp_path / "other").mkdir()
        for name in ("a", "b"):
            root.mkdir()
            add_socket(root / name)
            follow(discovery, name)
            shutil.rmtree(root)
            follow(discovery)


def test_no_folder_above_the_root(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(KataError, match=f"watch {tmp_path}/none: no such directory"):
        Discovery(f"{tmp_path}/none/kata")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_sandbox_that_writes_to_its_folder_wakes_nobody(root: Path, discovery: Discovery) -> None:
    add_socket(root / "a")
    follow(discovery, "a")
    while select.select([discovery], [], [], 0)[0]:
        discovery.update()
    for number in range(10):
        (root / "a" / f"record-{number}").touch()
        (root / "a" / f"record-{number}").rename(root / "a" / "record.json")
    assert not select.select([discovery], [], [], 0)[0]


def test_more_events_than_the_kernel_keeps(root: Path, discovery: Discovery) -> None:
    kept = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    for _ in range(kept // 2 + 10):
        (root / "x").touch()
        (root / "x").unlink()
    add_socket(root / "lost")
    follow(discovery, "lost")
    add_socket(root / "after")
    follow(discovery, "after", "lost")


def test_closing_twice(root: Path) -> None:
    discovery = Discovery(str(root))
    discovery.close()
    discovery.close()


def test_many_that_come_and_go_at_once(root: Path, discovery: Discovery) -> None:
    def live(name: str) -> None:
        for _ in range(20):
            add_socket(root / name)
            shutil.rmtree(root / name)
        add_socket(root / name)

    names = [f"s{number}" for number in range(10)]
    run_all([lambda name=name: live(name) for name in names])  # type: ignore[misc]
    follow(discovery, *names)


def run_all(actions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
