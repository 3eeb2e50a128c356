"""The shim alone, given what no engine should give it."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from kata.rpc.frame import MAX_LENGTH
from tests.support.sandboxes import SHIM, assert_gone, find_pids
from tests.support.shims import ENGINE, NAMESPACE, Shim, run_shim, write_bundle
from tools.steps import BUILD

pytestmark = pytest.mark.e2e

ID = "shim-alone"
GOOD: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {"args": ["/bin/true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "root": {"path": "rootfs"},
    "mounts": [],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
}


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    """A shim that has no task yet; nothing of it may be left."""
    running = Shim(write_bundle(tmp_path / "first", GOOD), ID)
    yield running
    running.stop()
    assert_gone(ID, ENGINE, NAMESPACE)


@pytest.mark.parametrize(
    ("config", "code", "words"),
    [
        (None, Code.NOT_FOUND, "config.json is missing"),
        ('{"process": ', Code.INVALID_ARGUMENT, "invalid JSON"),
        ("[" * 100_000, Code.INVALID_ARGUMENT, "invalid JSON"),
        ("[]", Code.INVALID_ARGUMENT, "no JSON object"),
        ("{}", Code.INVALID_ARGUMENT, "no process"),
        ({**GOOD, "process": {"args": []}}, Code.INVALID_ARGUMENT, "process.args"),
        ({**GOOD, "root": {}}, Code.INVALID_ARGUMENT, "root.path"),
        ({**GOOD, "root": {"path": "nowhere"}}, Code.NOT_FOUND, "nowhere"),
        ({**GOOD, "annotations": 3}, Code.INVALID_ARGUMENT, "annotations"),
        ({**GOOD, "mounts": [{"type": "bind"}]}, Code.INVALID_ARGUMENT, "mounts[0]"),
        ({**GOOD, "mounts": [3]}, Code.INVALID_ARGUMENT, "mounts[0]"),
        ({**GOOD, "linux": {"namespaces": [3]}}, Code.INVALID_ARGUMENT, "namespaces"),
        ({**GOOD, "linux": {"resources": 3}}, Code.INVALID_ARGUMENT, "resources"),
        ({**GOOD, "process": {"args": "x"}}, Code.INVALID_ARGUMENT, "process.args"),
    ],
)
def test_bundle_that_is_wrong(
    shim: Shim, tmp_path: Path, config: Any, code: int, words: str
) -> None:
    started = time.monotonic()
    with pytest.raises(RpcError) as caught:
        shim.create(ID, write_bundle(tmp_path / "bundle", config))
    assert (caught.value.code, words in str(caught.value)) == (code, True), caught.value
    assert time.monotonic() - started < 5
    assert shim.shim_pid() in find_pids(ID, SHIM)


@pytest.mark.parametrize("bad", ["", "../x", "x" * 300, "a/b", ".", "..", "a\nb", "-x"])
def test_id_that_is_wrong(shim: Shim, bad: str) -> None:
    with pytest.raises(RpcError) as caught:
        shim.create(bad, shim.bundle)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("bad", ["", "../x", "x" * 300])
@pytest.mark.parametrize("action", ["start", "delete"])
def test_id_that_is_wrong_on_the_command_line(tmp_path: Path, bad: str, action: str) -> None:
    done = run_shim(tmp_path, bad, action)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    assert b"check container id" in done.stderr


def test_the_next_of_an_id_once_the_end_is_answered(tmp_path: Path) -> None:
    """Nobody has to wait, and the first's end takes nothing from the next."""
    bundle = write_bundle(tmp_path / "bundle", GOOD)
    for _ in range(20):
        shim = Shim(bundle, ID)
        shim.shim_pid()
        shim.stop()
        assert not Path(shim.path).exists()
    assert_gone(ID, ENGINE, NAMESPACE)


def test_second_shim_of_one_id(shim: Shim, tmp_path: Path) -> None:
    done = run_shim(tmp_path, ID, "start")
    assert done.returncode == 1
    assert b"a shim of that id is running" in done.stderr
    assert shim.shim_pid() in find_pids(ID, SHIM)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        os.urandom(4096),
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0),
        struct.pack(">IIBB", MAX_LENGTH + 1, 1, 1, 0) + bytes(MAX_LENGTH + 1),
        struct.pack(">IIBB", 100, 1, 1, 0) + b"short",
        struct.pack(">IIBB", 4, 2, 9, 0xFF) + b"abcd",
        struct.pack(">IIBB", 0, 1, 1, 0),
        b"\0",
    ],
    ids=["http", "random", "huge", "oversized", "truncated", "unknown-kind", "empty", "one-byte"],
)
def test_garbage_on_the_socket(shim: Shim, data: bytes) -> None:
    with shim.connect() as hostile:
        try:
            hostile.sendall(data)
        except OSError:
            pass  # dropped already
        assert shim.shim_pid() in find_pids(ID, SHIM)
    assert shim.shim_pid() in find_pids(ID, SHIM)


def test_configuration_from_the_environment(tmp_path: Path) -> None:
    shim = Shim(write_bundle(tmp_path / "first", GOOD), ID, "/nonexistent/of-env.toml")
    with pytest.raises(RpcError, match=r"/nonexistent/of-env\.toml \(KATA_CONF_FILE\)"):
        shim.create(ID, shim.bundle)
    shim.stop()
    assert_gone(ID, ENGINE, NAMESPACE)


def test_daemon_that_cannot_start_says_why(tmp_path: Path) -> None:
    """In a chroot without a mount at its root the daemon cannot leave the host's mounts."""
    root, top = tmp_path / "root", BUILD.split("/")[1]
    script = (
        f"mkdir {root}; cp -a /bin /lib /lib64 {root};"
        f" for name in usr etc dev proc run tmp {top}; do"
        f" mkdir {root}/$name; test ! -e /$name || mount --rbind /$name {root}/$name; done;"
        f' exec chroot {root} sh -c \'cd "$0"; exec "$@"\' "$PWD" "$@"'
    )
    bundle = write_bundle(tmp_path / "first", GOOD)
    done = run_shim(bundle, ID, "start", prefix=["unshare", "-m", "sh", "-c", script, "sh"])
    assert done.returncode == 1
    assert b"separate mounts from the host's" in done.stderr
    assert_gone(ID, ENGINE, NAMESPACE)


def test_many_idle_connections(shim: Shim) -> None:
    idle = [shim.connect() for _ in range(100)]
    assert shim.shim_pid() in find_pids(ID, SHIM)
    for sock in idle:
        sock.close()


def test_delete_of_what_never_was(tmp_path: Path) -> None:
    done = run_shim(tmp_path, "never-was", "delete")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout
