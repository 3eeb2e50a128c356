"""A sandbox's shim, as the command line uses it: started, asked, cleaned up after."""

from __future__ import annotations

import hashlib
import os
import socket
import sys

from kata.base.errors import Code, KataError
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from kata.rpc.pb import any_pb2, empty_pb2, task_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from google.protobuf.message import Message

    Answer = TypeVar("Answer", bound=Message)

_SHIM = "containerd-shim-kata-v2"
# The shims' namespace; with the state's root it tells these containers from others' of that id.
_NAMESPACE = "oci"
_SOCKETS = "/run/containerd/s"
_SERVICE = "containerd.task.v2.Task"
_SHUTDOWN_S = 10.0


class Task:
    """A connection to a sandbox's shim, for one container in it."""

    def __init__(self, root: str, sandbox: str, container_id: str, path: str = "") -> None:
        """Connect, to ``path`` if the shim is an engine's.  Raises UNAVAILABLE without an answer.

        Without a ``container_id`` it is the guest itself, where programs can run.
        """
        self._id = container_id
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(path or socket_path(root, sandbox))
        except OSError as error:
            sock.close()
            raise KataError(
                f"connect to the shim of {sandbox}: {error.strerror}", Code.UNAVAILABLE
            ) from error
        self._client = Client(Channel.from_socket(sock))

    def create(self, bundle: str, stdio: str, *, terminal: bool) -> None:
        """Create the container; ``stdio`` is where its stand-in listens."""
        request = task_pb2.CreateTaskRequest(
            id=self._id, bundle=bundle, terminal=terminal, stdin=stdio, stdout=stdio, stderr=stdio
        )
        self._call("Create", request, task_pb2.CreateTaskResponse)

    def start(self, exec_id: str = "") -> None:
        """Start the container's process, or an exec."""
        request = task_pb2.StartRequest(id=self._id, exec_id=exec_id)
        self._call("Start", request, task_pb2.StartResponse)

    def exec(self, exec_id: str, process: bytes, stdio: str, *, terminal: bool) -> None:
        """Register another process; ``process`` is its JSON."""
        request = task_pb2.ExecProcessRequest(
            id=self._id,
            exec_id=exec_id,
            terminal=terminal,
            stdin=stdio,
            stdout=stdio,
            stderr=stdio,
            spec=any_pb2.Any(type_url="Process", value=process),
        )
        self._call("Exec", request, empty_pb2.Empty)

    def kill(self, signum: int, *, everything: bool = False) -> None:
        """Send a signal to the container's process, or to all of its processes."""
        request = task_pb2.KillRequest(id=self._id, signal=signum, all=everything)
        self._call("Kill", request, empty_pb2.Empty)

    def pause(self) -> None:
        """Suspend the container."""
        self._call("Pause", task_pb2.PauseRequest(id=self._id), empty_pb2.Empty)

    def resume(self) -> None:
        """Let it go on."""
        self._call("Resume", task_pb2.ResumeRequest(id=self._id), empty_pb2.Empty)

    def update(self, resources: bytes) -> None:
        """Change its limits; ``resources`` is the specification's JSON."""
        request = task_pb2.UpdateTaskRequest(
            id=self._id, resources=any_pb2.Any(type_url="LinuxResources", value=resources)
        )
        self._call("Update", request, empty_pb2.Empty)

    def stats(self) -> any_pb2.Any:
        """Return its use of resources: ``io.containerd.cgroups.v1.Metrics`` or v2."""
        answer = self._call("Stats", task_pb2.StatsRequest(id=self._id), task_pb2.StatsResponse)
        stats: any_pb2.Any = answer.stats
        return stats

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        answer = self._call("Wait", task_pb2.WaitRequest(id=self._id), task_pb2.WaitResponse)
        status: int = answer.exit_status
        return status

    def delete(self) -> None:
        """Delete the container."""
        self._call("Delete", task_pb2.DeleteRequest(id=self._id), task_pb2.DeleteResponse)

    def shut_down(self) -> None:
        """End the shim, whatever it has: for the container whose machine it is.

        Of others in that machine nothing is left by then but their records.
        """
        request = task_pb2.ShutdownRequest(id=self._id, now=True)
        try:
            self._client.call(f"{_SERVICE}/Shutdown", request, empty_pb2.Empty, _SHUTDOWN_S)
        except KataError as error:
            if error.code != Code.UNAVAILABLE:  # it has ended before it could answer
                raise

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._client.close()

    def _call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        return self._client.call(f"{_SERVICE}/{method}", request, answer)


def socket_path(root: str, sandbox: str) -> str:
    """Return where a sandbox's shim listens (kata.host.shim.address has the scheme)."""
    name = os.path.join(root, _NAMESPACE, sandbox)
    return f"{_SOCKETS}/{hashlib.sha256(name.encode()).hexdigest()}"


def start_shim(root: str, container_id: str, folder: str, config_path: str) -> None:
    """Start a shim for a container whose bundle is ``folder``.  Raises its words."""
    _run_shim(root, container_id, folder, config_path, ["start"])


def clean_up(root: str, container_id: str, folder: str) -> None:
    """End what a shim left that does not answer."""
    _run_shim(root, container_id, folder, "", ["-bundle", folder, "delete"])


def _run_shim(
    root: str, container_id: str, folder: str, config_path: str, words: Sequence[str]
) -> None:
    import subprocess

    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), _SHIM)
    environ = {key: text for key, text in os.environ.items() if key != "TTRPC_ADDRESS"}
    if config_path:
        environ["KATA_CONF_FILE"] = config_path
    argv = [program, "-namespace", _NAMESPACE, "-address", root, "-id", container_id, *words]
    try:
        done = subprocess.run(argv, cwd=folder, env=environ, capture_output=True, check=False)
    except OSError as error:
        raise KataError(f"execute {program}: {error.strerror}", Code.NOT_FOUND) from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().removeprefix(f"{_SHIM}: ")
        raise KataError(said or f"{program}: exit status {done.returncode}", Code.INTERNAL)
