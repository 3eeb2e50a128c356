"""The agent on this machine as a plain process, and a host that drives it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from kata.oci.convert import convert_process, convert_resources, convert_spec
from kata.rpc import frame
from kata.rpc.client import Call, Client
from kata.rpc.pb import agent_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

Answer = TypeVar("Answer", bound=Message)

SOURCES = Path(__file__).resolve().parents[2] / "src"
RUN = "run/kata-containers"
# Of this run: others may run beside it.
CGROUP = f"/kata-guest-test-{os.getpid()}"
TIMEOUT_S = 30.0
AGENT = (sys.executable, "-m", "kata.guest.main")
NAMESPACES = ("pid", "ipc", "uts", "mount")
MOUNTS = (
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["newinstance", "ptmxmode=0666", "mode=0620"],
    },
)
# A mount namespace of its own, so that nothing can leak from it.  On a host with a hybrid of cgroup
# v1 and v2 the agent's own containers get v2, which may have no controllers there; crun refuses
# such a hybrid, and takes v1 without the mount of v2.
START = {
    "native": """
mount -t tmpfs tmpfs /run
if [ -d /sys/fs/cgroup/unified ]; then mount --bind /sys/fs/cgroup/unified /sys/fs/cgroup; fi
exec "$@"
""",
    "crun": """
mount -t tmpfs tmpfs /run
umount /sys/fs/cgroup/unified 2>/dev/null
exec "$@"
""",
}


def is_forker(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/comm").read_text() == "kata-forker\n"
    except OSError:
        return False


class AgentProcess:
    """A running agent and its log."""

    def __init__(self, log: Path, runtime: str, *, own_network: bool = False) -> None:
        # Names without a path are a network's own.
        name = f"kata-agent-test-{os.getpid()}-{time.monotonic_ns()}"
        self.address = f"/tmp/{name}" if own_network else f"@{name}"
        self._log = log
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(SOURCES), *sys.path]),
            "KATA_AGENT_SERVER_ADDR": f"unix://{self.address}",
            "KATA_AGENT_LOG_LEVEL": "debug",
            "KATA_AGENT_RUNTIME": runtime,
        }
        namespaces = ["--mount", *(["--net"] if own_network else [])]
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-c", START[runtime], "sh", *AGENT],
                env=environment,
                stderr=stderr,
            )
        self.pid = self._process.pid

    def connect(self) -> socket.socket:
        """Connect, waiting for an agent that has just been started."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self.address.replace("@", "\0"))
            except (ConnectionRefusedError, FileNotFoundError):
                sock.close()
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"no agent: {self.log()}") from None
                time.sleep(0.01)
            else:
                return sock

    def log(self) -> str:
        return self._log.read_text()

    def path(self, inside: str) -> Path:
        """Return a path as the agent sees it."""
        return Path(f"/proc/{self.pid}/root/{inside.lstrip('/')}")

    def children(self) -> list[int]:
        """Return the processes that the agent is the parent of, but for the one that forks."""
        found = []
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                found += [int(word) for word in (task / "children").read_text().split()]
        return [pid for pid in found if not is_forker(pid)]

    def mounts(self) -> list[str]:
        lines = Path(f"/proc/{self.pid}/mounts").read_text().splitlines()
        return sorted(line.split()[1] for line in lines)

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def stop(self) -> int:
        """End the agent by SIGTERM and return its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)

    def kill(self) -> None:
        if self._process.poll() is None:
            for pid in self.children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.kill()
            self._process.wait()
        Path(self.address).unlink(missing_ok=True)


class Host:
    """The requests of a host, one method each."""

    def __init__(self, agent: AgentProcess, rootfs: Path) -> None:
        self.agent = agent
        self.rootfs = rootfs
        # For storages and namespaces that live as long as the sandbox.
        self.mounts_may_stay = False
        self._client = Client(frame.Channel.from_socket(agent.connect()))
        self._names = (f"p{number}" for number in itertools.count())

    def close(self) -> None:
        self._client.close()

    def call(
        self,
        method: str,
        request: Message,
        answer: type[Answer] = Empty,  # type: ignore[assignment]
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        return self._client.call(self._path(method), request, answer, timeout_s)

    def begin(self, method: str, request: Message) -> Call:
        return self._client.begin(self._path(method), request, TIMEOUT_S)

    @staticmethod
    def _path(method: str) -> str:
        return method if "/" in method else f"grpc.AgentService/{method}"

    def spec(self, *args: str, **process: Any) -> dict[str, Any]:
        return {
            "ociVersion": "1.0.2",
            "process": self.process(*args, **process),
            "root": {"path": str(self.rootfs)},
            "mounts": list(MOUNTS),
            "linux": {
                "namespaces": [{"type": kind} for kind in NAMESPACES],
                "cgroupsPath": f"{CGROUP}/{next(self._names)}",
            },
        }

    @staticmethod
    def process(*args: str, **more: Any) -> dict[str, Any]:
        return {
            "args": list(args),
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
            **more,
        }

    def create(
        self, container_id: str, spec: dict[str, Any], storages: list[pb.Storage] | None = None
    ) -> None:
        request = pb.CreateContainerRequest(
            container_id=container_id, OCI=convert_spec(spec), storages=storages or []
        )
        self.call("CreateContainer", request)

    def start(self, container_id: str) -> None:
        self.call("StartContainer", pb.StartContainerRequest(container_id=container_id))

    def run(self, container_id: str, *args: str, **process: Any) -> None:
        """Create and start a container."""
        self.create(container_id, self.spec(*args, **process))
        self.start(container_id)

    def execute(self, container_id: str, exec_id: str, *args: str, **process: Any) -> None:
        self.call("ExecProcess", self.exec_request(container_id, exec_id, *args, **process))

    def exec_request(
        self, container_id: str, exec_id: str, *args: str, **process: Any
    ) -> pb.ExecProcessRequest:
        return pb.ExecProcessRequest(
            container_id=container_id,
            exec_id=exec_id,
            process=convert_process(self.process(*args, **process)),
        )

    def output(self, container_id: str, *args: str, **process: Any) -> str:
        """Run a command in a container and return what it prints; it must succeed."""
        name = next(self._names)
        self.execute(container_id, name, *args, **process)
        printed = self.read_all(container_id, name)
        errors = self.read_all(container_id, name, "ReadStderr")
        status = self.wait(container_id, name)
        assert status == 0, errors
        return printed.decode()

    def wait(self, container_id: str, exec_id: str = "") -> int:
        request = pb.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        return self.call("WaitProcess", request, pb.WaitProcessResponse).status

    def read(
        self, container_id: str, exec_id: str = "", method: str = "ReadStdout", limit: int = 1 << 16
    ) -> bytes:
        request = pb.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=limit)
        return self.call(method, request, pb.ReadStreamResponse).data

    def read_all(self, container_id: str, exec_id: str = "", method: str = "ReadStdout") -> bytes:
        parts = []
        while part := self.read(container_id, exec_id, method):
            parts.append(part)
        return b"".join(parts)

    def read_until(self, text: str, container_id: str, exec_id: str = "") -> str:
        seen = ""
        while text not in seen:
            part = self.read(container_id, exec_id)
            assert part, seen
            seen += part.decode()
        return seen

    def write(self, data: bytes, container_id: str, exec_id: str = "") -> int:
        request = pb.WriteStreamRequest(container_id=container_id, exec_id=exec_id, data=data)
        return self.call("WriteStdin", request, pb.WriteStreamResponse).len

    def close_stdin(self, container_id: str, exec_id: str = "") -> None:
        self.call("CloseStdin", pb.CloseStdinRequest(container_id=container_id, exec_id=exec_id))

    def resize(self, rows: int, columns: int, container_id: str, exec_id: str = "") -> None:
        request = pb.TtyWinResizeRequest(
            container_id=container_id, exec_id=exec_id, row=rows, column=columns
        )
        self.call("TtyWinResize", request)

    def signal(self, number: int, container_id: str, exec_id: str = "") -> None:
        request = pb.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=number)
        self.call("SignalProcess", request)

    def pause(self, container_id: str) -> None:
        self.call("PauseContainer", pb.PauseContainerRequest(container_id=container_id))

    def resume(self, container_id: str) -> None:
        self.call("ResumeContainer", pb.ResumeContainerRequest(container_id=container_id))

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        request = pb.UpdateContainerRequest(
            container_id=container_id, resources=convert_resources(resources)
        )
        self.call("UpdateContainer", request)

    def remove(self, container_id: str, timeout: int = 0) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id, timeout=timeout)
        self.call("RemoveContainer", request)

    def leftovers(self) -> list[str]:
        """Return what the agent still has of its containers."""
        folders = (f"{RUN}/bundles", f"{RUN}/sandbox/crun", f"{RUN}/sandbox/tty")
        found: list[str] = []
        for folder in folders:
            path = self.agent.path(folder)
            found += [str(entry) for entry in path.iterdir()] if path.exists() else []
        return found


@contextlib.contextmanager
def running_agent(
    log: Path, runtime: str = "native", *, own_network: bool = False
) -> Iterator[AgentProcess]:
    agent = AgentProcess(log, runtime, own_network=own_network)
    try:
        yield agent
    finally:
        agent.kill()


def cgroup_folders() -> list[Path]:
    """Return the test's cgroups, innermost first."""
    tops = [Path("/sys/fs/cgroup" + CGROUP), *Path("/sys/fs/cgroup").glob("*" + CGROUP)]
    found = [folder for top in tops if top.exists() for folder, _, _ in os.walk(top)]
    return [Path(folder) for folder in sorted(map(str, found), reverse=True)]


def make_rootfs(folder: Path) -> Path:
    """Make a root file system of busybox, its applets as hard links."""
    folder.chmod(0o755)
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc"):
        (folder / name).mkdir(parents=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n")
    busybox = folder / "bin/busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    listed = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    for name in listed.stdout.split():
        with contextlib.suppress(FileExistsError):
            (folder / "bin" / name).hardlink_to(busybox)
    return folder


def until(condition: Any, what: str, timeout_s: float = 10.0) -> None:
    """Wait for something that nothing announces to the test."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
