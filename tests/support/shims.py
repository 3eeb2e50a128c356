"""A shim without an engine: started by its command line, driven through its socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kata.host.shim import address
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from kata.rpc.pb import empty_pb2, task_pb2
from tools.setup import CONFIGURATION
from tools.steps import BUILD

ENGINE = "/run/kata-tests/engine.sock"
NAMESPACE = "tests"
TIMEOUT_S = 60.0


def run_shim(
    bundle: Path,
    shim_id: str,
    action: str,
    configuration: str = CONFIGURATION,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[bytes]:
    """Run the shim's program in a bundle; ``prefix`` is a program that runs it."""
    return subprocess.run(
        [
            *prefix,
            f"{BUILD}/bin/containerd-shim-kata-v2",
            "-namespace", NAMESPACE, "-address", ENGINE, "-id", shim_id, "-bundle", str(bundle),
            action,
        ],
        cwd=bundle,
        env={**os.environ, "KATA_CONF_FILE": configuration},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=30,
        check=False,
    )  # fmt: skip


class Shim:
    """A running shim; ``stop`` ends it."""

    def __init__(self, bundle: Path, shim_id: str, configuration: str = CONFIGURATION) -> None:
        self.id = shim_id
        self.bundle = bundle
        done = run_shim(bundle, shim_id, "start", configuration)
        assert done.returncode == 0, done.stderr
        self.path = done.stdout.decode().removeprefix("unix://")
        assert self.path == address.socket_path(ENGINE, NAMESPACE, shim_id)
        self.client = Client(Channel.from_socket(self.connect()))

    def connect(self) -> socket.socket:
        """Return one more connection."""
        return connect(self.path)

    def create(self, task_id: str, bundle: Path) -> task_pb2.CreateTaskResponse:
        """Call Create."""
        request = task_pb2.CreateTaskRequest(id=task_id, bundle=str(bundle))
        return self.client.call(
            "containerd.task.v2.Task/Create", request, task_pb2.CreateTaskResponse, TIMEOUT_S
        )

    def shim_pid(self) -> int:
        """Call Connect, which any shim answers that serves."""
        request = task_pb2.ConnectRequest(id=self.id)
        method = "containerd.task.v2.Task/Connect"
        return self.client.call(method, request, task_pb2.ConnectResponse, 5).shim_pid

    def stop(self) -> None:
        """Call Shutdown."""
        request = task_pb2.ShutdownRequest(id=self.id, now=True)
        self.client.call("containerd.task.v2.Task/Shutdown", request, empty_pb2.Empty, 10)
        self.client.close()


def connect(path: str) -> socket.socket:
    """Connect to a shim."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(path)
    return sock


def write_bundle(folder: Path, config: Any) -> Path:
    """Make a bundle with an empty root file system; ``config`` is text, an object or None."""
    (folder / "rootfs").mkdir(parents=True)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text)
    return folder
