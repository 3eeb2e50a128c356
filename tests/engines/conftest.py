"""Debian's engines, each with storage and a network namespace of its own, and nothing else's."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.factory import end_factory
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.netns import Netns
from tests.support.runtime import PROGRAM, run_engine, unmount_below
from tools.busybox_image import busybox_layer
from tools.setup import CONFIGURATION

IMAGE = "localhost/busybox"
# Where the program keeps containers when it is not told.
_ROOT = Path("/run/kata-runtime")
_START_S = 30.0


class Engine:
    """An engine's command line, in its network namespace."""

    def __init__(self, netns: Netns, *argv: str, environ: dict[str, str] | None = None) -> None:
        self.netns = netns
        self._argv = ["nsenter", f"--net={netns.path}", "--", *argv]
        self._environ = {**os.environ, **(environ or {})}

    def argv(self, *words: str) -> list[str]:
        """Return a whole command line."""
        return [*self._argv, *words]

    def call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Call it and return what it said."""
        return run_engine(self.argv(*words), check=check, env=self._environ)

    def run(self, *words: str, check: bool = True) -> str:
        """Call it and return what it printed, without the last newline."""
        return self.call(*words, check=check).stdout.removesuffix("\n")

    def begin(self, *words: str, **more: object) -> subprocess.Popen[str]:
        """Start it."""
        return subprocess.Popen(self.argv(*words), env=self._environ, text=True, **more)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root file system as a tar file."""
    path = tmp_path_factory.mktemp("layer") / "busybox.tar"
    path.write_bytes(busybox_layer())
    return str(path)


@pytest.fixture(scope="session")
def wrapper(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The runtime as engines are told of it: a path without flags."""
    path = tmp_path_factory.mktemp("wrapper") / "kata-runtime"
    path.write_text(f'#!/bin/sh\nexec {PROGRAM} --config {CONFIGURATION} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.fixture(scope="module")
def netns() -> Iterator[Netns]:
    """A network namespace in which an engine may do what it likes."""
    made = Netns()
    yield made
    made.delete()


@pytest.fixture(scope="module")
def clean() -> Iterator[None]:
    """See that nothing is left when the engine has gone."""
    end_factory()
    before = take_inventory() | _list_containers()
    yield
    assert _list_containers() <= before
    assert_nothing_new(before)


@pytest.fixture(scope="module")
def podman(clean: None, netns: Netns, layer: str, wrapper: str) -> Iterator[Engine]:
    """Debian's Podman with an image."""
    with tempfile.TemporaryDirectory(prefix="kata-podman-") as folder:
        engine = Engine(
            netns,
            *("podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"),
            *("--tmpdir", f"{folder}/tmp", "--network-config-dir", f"{folder}/net"),
            *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--storage-driver", "overlay", "--runtime", wrapper),
        )
        engine.call("import", layer, IMAGE)
        yield engine
        engine.call("pod", "rm", "--all", "--force", "--time", "0")
        engine.call("rm", "--all", "--force", "--time", "0")
        unmount_below(folder)


@pytest.fixture(scope="module")
def dockerd(clean: None, netns: Netns, wrapper: str) -> Iterator[Dockerd]:
    """Debian's Docker: a daemon of its own, and as there a containerd that is not its child."""
    with tempfile.TemporaryDirectory(prefix="kata-docker-") as folder:
        containerd = Containerd(Path(folder))
        containerd.start()
        daemon = Dockerd(netns, Path(folder), wrapper, containerd.address)
        daemon.start()
        yield daemon
        daemon.stop()
        containerd.stop()
        unmount_below(folder)


@pytest.fixture(scope="module")
def docker(dockerd: Dockerd, netns: Netns, layer: str) -> Iterator[Engine]:
    """Its command line, and an image."""
    engine = Engine(netns, "docker", environ={"DOCKER_HOST": dockerd.address})
    engine.call("import", layer, IMAGE)
    yield engine
    for name in engine.run("ps", "--all", "--quiet").split():
        engine.call("rm", "--force", name)


class Dockerd:
    """The daemon."""

    def __init__(self, netns: Netns, folder: Path, runtime: str, containerd: str) -> None:
        self._folder = folder
        self.address = f"unix://{folder}/sock"
        self._argv = [
            *("nsenter", f"--net={netns.path}", "--", "dockerd"),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--pidfile", f"{folder}/pid", "--host", self.address),
            *("--containerd", containerd),
            *("--add-runtime", f"kata={runtime}", "--default-runtime", "kata"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        with open(self._folder / "dockerd.log", "ab") as log:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _START_S
        while run_engine(["docker", "--host", self.address, "version"], check=False).returncode:
            assert self._process.poll() is None, (self._folder / "dockerd.log").read_text()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it; containerd and the containers' shims go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def stop(self) -> None:
        """Stop it."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)


def find_pid(engine: Engine, name: str) -> int:
    """Return the pid that an engine knows a container by."""
    return int(engine.run("inspect", "--format", "{{.State.Pid}}", name))


def list_sandboxes() -> list[str]:
    """Return the ids of the virtual machines that containers have."""
    hidden = re.compile(r"factory\.|template-|spare-|kvm-probe|shared|\.")
    folder = Path("/run/kata")
    entries = folder.iterdir() if folder.is_dir() else ()
    return [entry.name for entry in entries if not hidden.match(entry.name)]


def _list_containers() -> set[str]:
    return {f"container {entry}" for entry in _ROOT.iterdir()} if _ROOT.exists() else set()
