"""The program that says which devices a cgroup may use, run by the kernel itself."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.guest import devicefilter

ROOTS = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))
DENY_ALL = {"allow": False, "access": "rwm"}
LOOP = (7, 0)
# Opens, or makes, a device in the way that it is told, and says by its exit status whether it may.
TRY = """
import errno, os, stat, sys
path, wanted = sys.argv[1], sys.argv[2]
kind, major, minor = sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
flags = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
sys.stdin.readline()
try:
    if wanted == "m":
        os.mknod(path, {"b": stat.S_IFBLK, "c": stat.S_IFCHR}[kind], os.makedev(major, minor))
    else:
        os.close(os.open(path, flags[wanted] | os.O_NONBLOCK | os.O_NOCTTY))
except PermissionError:
    sys.exit(1)
except OSError as error:  # no such device, but it was not forbidden
    sys.exit(0 if error.errno in (errno.ENXIO, errno.ENODEV) else 3)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    root = next(path for path in ROOTS if (path / "cgroup.controllers").exists())
    folder = Path(tempfile.mkdtemp(prefix="kata-devices-", dir=root))
    yield folder
    folder.rmdir()


def may(folder: Path, tmp_path: Path, wanted: str, kind: str, major: int, minor: int) -> bool:
    """Whether a process in a cgroup may do this with a device."""
    path = tmp_path / f"{kind}-{major}-{minor}"
    path.unlink(missing_ok=True)
    if wanted != "m":
        mode = {"b": 0o060666, "c": 0o020666}[kind]
        os.mknod(path, mode, os.makedev(major, minor))
    argv = ["python3", "-c", TRY, str(path), wanted, kind, str(major), str(minor)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, cwd="/") as process:
        (folder / "cgroup.procs").write_text(str(process.pid))
        process.communicate(b"\n")
    assert process.returncode in (0, 1)
    return process.returncode == 0


def rule(allow: bool, access: str, kind: str = "", major: int = -1, minor: int = -1) -> Any:
    found: dict[str, Any] = {"allow": allow, "access": access}
    if kind:
        found["type"] = kind
    return {**found, "major": major, "minor": minor}


def test_default_devices_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    devicefilter.restrict(str(folder), [DENY_ALL])
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9)):
        assert may(folder, tmp_path, "rw", "c", major, minor)
    assert may(folder, tmp_path, "m", "c", 1, 1)
    assert may(folder, tmp_path, "m", "b", *LOOP)
    assert not may(folder, tmp_path, "r", "c", 1, 1)
    assert not may(folder, tmp_path, "r", "b", *LOOP)
    assert not may(folder, tmp_path, "r", "c", 10, 200)


def test_a_device_is_allowed_in_some_ways(folder: Path, tmp_path: Path) -> None:
    devicefilter.restrict(str(folder), [DENY_ALL, rule(True, "r", "b", *LOOP)])
    assert may(folder, tmp_path, "r", "b", *LOOP)
    assert not may(folder, tmp_path, "w", "b", *LOOP)
    assert not may(folder, tmp_path, "rw", "b", *LOOP)
    assert not may(folder, tmp_path, "r", "b", 7, 1)
    assert not may(folder, tmp_path, "r", "c", *LOOP)


def test_all_minors_of_a_major(folder: Path, tmp_path: Path) -> None:
    devicefilter.restrict(str(folder), [DENY_ALL, rule(True, "rwm", "b", 7)])
    assert may(folder, tmp_path, "rw", "b", 7, 0)
    assert may(folder, tmp_path, "rw", "b", 7, 3)
    assert not may(folder, tmp_path, "r", "b", 8, 0)


def test_the_last_rule_that_matches_decides(folder: Path, tmp_path: Path) -> None:
    rules = [DENY_ALL, rule(True, "rwm", "b", 7), rule(False, "w", "b", *LOOP)]
    devicefilter.restrict(str(folder), rules)
    assert may(folder, tmp_path, "r", "b", *LOOP)
    assert not may(folder, tmp_path, "w", "b", *LOOP)
    assert not may(folder, tmp_path, "rw", "b", *LOOP)  # any of what is denied
    assert may(folder, tmp_path, "rw", "b", 7, 1)


def test_everything_allowed_needs_no_program(folder: Path, tmp_path: Path) -> None:
    devicefilter.restrict(str(folder), [DENY_ALL, {"allow": True, "access": "rwm"}])
    assert may(folder, tmp_path, "r", "b", *LOOP)
    assert may(folder, tmp_path, "r", "c", 1, 1)


@pytest.mark.parametrize(
    ("rule", "answer"),
    [
        ({"allow": True}, True),
        ({"allow": True, "type": "a", "access": "rwm", "major": -1}, True),
        ({"allow": False}, False),
        ({"allow": True, "access": "rw"}, False),
        ({"allow": True, "type": "c"}, False),
        ({"allow": True, "major": 1}, False),
    ],
)
def test_is_open(rule: dict[str, Any], answer: bool) -> None:
    assert devicefilter.is_open(rule) is answer
