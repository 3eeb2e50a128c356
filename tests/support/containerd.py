"""A real containerd of the tests' own, driven by ctr and, where that is not enough, by sockets."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from kata.rpc.client import Client
from kata.rpc.frame import Channel
from tools.setup import CONFIGURATION
from tools.steps import BUILD

RUNTIME = "io.containerd.kata.v2"
IMAGE = "docker.io/library/busybox:latest"
CONFIG = """\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{folder}/c.sock"
[ttrpc]
  address = "{folder}/c.sock.ttrpc"
[debug]
  level = "debug"
"""
# A cold boot takes 3 s here when the machine is quiet; several at once on 2 cores take longer.
TIMEOUT_S = 90.0


class Containerd:
    """One containerd with its own folder, and its client ctr."""

    def __init__(
        self,
        folder: Path,
        programs: Path | None = None,
        configuration: str = CONFIGURATION,
        settings: str = CONFIG,
    ) -> None:
        """``programs`` holds containerd and ctr of another version than the system's.

        ``configuration`` is kata's, ``settings`` containerd's with ``{folder}`` for its folder.
        """
        self.folder = folder
        self._programs = str(programs) if programs else ""
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"{folder}/c.sock"
        (folder / "config.toml").write_text(settings.replace("{folder}", str(folder)))

    @property
    def log(self) -> str:
        """Return what containerd and the shims have logged."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The running daemon's pid."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._find("containerd"), "--config", str(self.folder / "config.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ(),
                start_new_session=True,
            )
        deadline = time.monotonic() + 30
        while self.ctr("version", check=False).returncode:
            assert self._process.poll() is None, self.log[-3000:]
            assert time.monotonic() < deadline, self.log[-3000:]
            time.sleep(0.1)

    def stop(self, signum: int = signal.SIGTERM) -> None:
        """Stop the daemon; shims go on."""
        if self._process is not None:
            self._process.send_signal(signum)
            self._process.wait(30)
            self._process = None

    def has_open(self, path: Path) -> bool:
        """Tell whether the daemon has a file open, a log that it still writes for example."""
        folder = f"/proc/{self.pid}/fd"
        for name in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{name}") == str(path):
                    return True
            except OSError:
                pass  # closed meanwhile
        return False

    def ctr(
        self,
        *args: str,
        check: bool = True,
        input: bytes | None = None,  # noqa: A002  # subprocess's word
        timeout: float = TIMEOUT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ctr and return what it printed."""
        done = subprocess.run(
            self.command(*args),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        if check:
            assert done.returncode == 0, (args, done.returncode, done.stdout[-500:], done.stderr)
        return done

    def command(self, *args: str) -> list[str]:
        """Return a ctr command line for this daemon."""
        return [self._find("ctr"), "--address", self.address, *args]

    def run(
        self,
        name: str,
        *command: str,
        flags: Sequence[str] = (),
        check: bool = True,
        image: str = IMAGE,
        timeout: float = TIMEOUT_S,
        runtime: str = RUNTIME,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a container in the foreground and remove it."""
        args = ["run", "--runtime", runtime, *flags, "--rm", image, name, *command]
        return self.ctr(*args, check=check, timeout=timeout)

    def start_container(self, name: str, *command: str, flags: Sequence[str] = ()) -> None:
        """Run a container in the background."""
        self.ctr("run", "--runtime", RUNTIME, "-d", *flags, IMAGE, name, *command)

    def exec(
        self,
        name: str,
        *command: str,
        flags: Sequence[str] = (),
        check: bool = True,
        input: bytes | None = None,  # noqa: A002
        timeout: float = TIMEOUT_S,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run one more process in a container."""
        exec_id = f"{time.monotonic_ns():064x}"  # as long as an engine's
        args = ["task", "exec", "--exec-id", exec_id, *flags, name, *command]
        return self.ctr(*args, check=check, input=input, timeout=timeout)

    def remove(self, name: str) -> None:
        """Kill and remove a container, whatever state it is in."""
        self.ctr("task", "kill", "-s", "KILL", name, check=False)
        deadline = time.monotonic() + 20
        while self.status(name) not in ("", "STOPPED") and time.monotonic() < deadline:
            time.sleep(0.05)
        self.ctr("task", "delete", "--force", name, check=False)
        self.ctr("container", "delete", name, check=False)

    def status(self, name: str) -> str:
        """Return a task's status as ctr prints it; empty when there is no task."""
        for line in self.ctr("task", "ls").stdout.decode().splitlines()[1:]:
            fields = line.split()
            if fields[0] == name:
                return fields[-1]
        return ""

    def wait_status(self, name: str, wanted: str, timeout_s: float = 15.0) -> None:
        """Wait until a task has a status."""
        deadline = time.monotonic() + timeout_s
        while (status := self.status(name)) != wanted:
            assert time.monotonic() < deadline, f"{name} is {status!r}, not {wanted!r}"
            time.sleep(0.05)

    def bundle(self, name: str) -> Path:
        """Return a container's bundle."""
        return self.folder / "state/io.containerd.runtime.v2.task/default" / name

    def shim(self, name: str) -> Client:
        """Connect to a container's shim."""
        address = (self.bundle(name) / "address").read_text()
        if address.startswith("{"):
            import json

            address = json.loads(address)["address"]
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.removeprefix("unix://"))
        return Client(Channel.from_socket(sock))

    def _find(self, program: str) -> str:
        found = shutil.which(program, path=self._environ()["PATH"])
        assert found, f"{program} is not installed"
        return found

    def _environ(self) -> dict[str, str]:
        path = f"{self._programs}:{BUILD}/bin:{os.environ['PATH']}".lstrip(":")
        return {**os.environ, "PATH": path, "KATA_CONF_FILE": self._configuration}
