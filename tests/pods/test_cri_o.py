"""CRI-O's way with a runtime of type "vm": what its runtime_vm.go does, done to the shim.

CRI-O is not in Debian, so the tests play its part: its command line, environment, annotations,
bundles and order of calls.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message

from kata.host.shim import address
from kata.rpc.client import Client, RpcError
from kata.rpc.frame import Channel
from kata.rpc.pb import (
    any_pb2,
    cgroups_v1_pb2,
    cgroups_v2_pb2,
    empty_pb2,
    runtimeoptions_pb2,
    task_pb2,
    task_types_pb2,
)
from tests.guest.harness import make_rootfs
from tests.support.netns import Netns, making_namespaces
from tests.support.sandboxes import QEMU, assert_gone, find_pids
from tests.support.shims import connect
from tools.setup import CONFIGURATION
from tools.steps import BUILD

pytestmark = pytest.mark.e2e

Answer = TypeVar("Answer", bound=Message)

POD = "cri-o-pod"
STATES = {
    task_types_pb2.CREATED: "CREATED",
    task_types_pb2.RUNNING: "RUNNING",
    task_types_pb2.STOPPED: "STOPPED",
}
TIMEOUT_S = 60.0
# containerd's library of version 1.7, by which CRI-O starts the shim, and no address of an engine.
ENVIRONMENT = {"MAX_SHIM_VERSION": "2", "TTRPC_ADDRESS": "", "GRPC_ADDRESS": ""}


class Container:
    """A container of CRI-O's, and the connection to the shim that serves it."""

    def __init__(self, bundle: Path, container_id: str, spec: dict[str, Any]) -> None:
        self.id = container_id
        self.bundle = bundle
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(spec))
        (bundle / "stdout").touch()
        self.output = b""
        self.started = self._start_shim()
        self._client = self._connect()

    def _start_shim(self) -> subprocess.CompletedProcess[str]:
        program = f"{BUILD}/bin/containerd-shim-kata-v2"
        words = ["-namespace", "default", "-address", "", "-publish-binary", "/usr/bin/crio"]
        done = subprocess.run(
            [program, *words, "-id", self.id, "start"],
            cwd=self.bundle,
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # CRI-O reads both
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise AssertionError(done.stdout)
        return done

    def _connect(self) -> Client:
        path = self.started.stdout.strip().removeprefix("unix://")
        return Client(Channel.from_socket(connect(path)))

    def reconnect(self) -> None:
        """Connect by what the bundle says, as CRI-O does after a restart of its own."""
        self._client.close()
        path = (self.bundle / "address").read_text().strip().removeprefix("unix://")
        self._client = Client(Channel.from_socket(connect(path)))

    def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        return self._client.call(f"containerd.task.v2.Task/{method}", request, answer, TIMEOUT_S)

    def create(self) -> None:
        fifo = self.bundle / "fifo"
        os.mkfifo(fifo)
        self._reader = threading.Thread(target=self._read, args=(fifo,))
        self._reader.start()
        options = runtimeoptions_pb2.Options(config_path=CONFIGURATION)
        request = task_pb2.CreateTaskRequest(
            id=self.id,
            bundle=str(self.bundle),
            stdout=str(fifo),
            options=any_pb2.Any(
                type_url="runtimeoptions.v1.Options", value=options.SerializeToString()
            ),
        )
        self.call("Create", request, task_pb2.CreateTaskResponse)

    def _read(self, fifo: Path) -> None:
        self.output = fifo.read_bytes()

    def start(self) -> None:
        self.call("Start", task_pb2.StartRequest(id=self.id), task_pb2.StartResponse)

    def wait(self) -> int:
        request = task_pb2.WaitRequest(id=self.id)
        return self.call("Wait", request, task_pb2.WaitResponse).exit_status

    def state(self) -> task_pb2.StateResponse:
        return self.call("State", task_pb2.StateRequest(id=self.id), task_pb2.StateResponse)

    def status(self) -> str:
        return STATES[self.state().status]

    def kill(self, signal: int = 9) -> None:
        self.call("Kill", task_pb2.KillRequest(id=self.id, signal=signal), empty_pb2.Empty)

    def give_up(self) -> None:
        """End the shim of a pod whose task was not created."""
        with contextlib.suppress(OSError):  # the shim may have had the FIFO open
            os.close(os.open(self.bundle / "fifo", os.O_WRONLY | os.O_NONBLOCK))
        self._reader.join(10)
        self.call("Shutdown", task_pb2.ShutdownRequest(id=self.id), empty_pb2.Empty)
        self._client.close()

    def delete(self) -> None:
        """Delete the task, and then tell the shim to end, for each container of a pod."""
        self.call("Delete", task_pb2.DeleteRequest(id=self.id), task_pb2.DeleteResponse)
        self._reader.join(10)
        try:
            self.call("Shutdown", task_pb2.ShutdownRequest(id=self.id), empty_pb2.Empty)
        finally:
            self._client.close()


class CriO:
    """Makes a pod and its containers."""

    def __init__(self, folder: Path, rootfs: Path, netns: Netns) -> None:
        self._folder = folder
        self._rootfs = rootfs
        # CRI-O's pinns holds the namespaces of a pod.
        paths = {"network": netns.path, "ipc": "/proc/self/ns/ipc", "uts": "/proc/self/ns/uts"}
        self._namespaces = [
            *({"type": kind, "path": path} for kind, path in paths.items()),
            {"type": "pid"},
            {"type": "mount"},
        ]
        self.pod = self.add(POD, "sandbox", "/pause")
        self.pod.create()
        self.pod.start()

    def add(self, name: str, kind: str, *args: str, **linux: Any) -> Container:
        spec = {
            "ociVersion": "1.2.0",
            "hostname": "pod-of-cri-o",
            "process": {
                "args": list(args),
                "cwd": "/",
                "env": ["PATH=/bin"],
                "user": {"uid": 0, "gid": 0},
            },
            "root": {"path": str(self._rootfs)},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {
                "io.kubernetes.cri-o.ContainerType": kind,
                "io.kubernetes.cri-o.SandboxID": POD,
            },
            "linux": {"namespaces": self._namespaces, **linux},
        }
        return Container(self._folder / name, name, spec)

    def run(self, name: str, *args: str, **linux: Any) -> Container:
        container = self.add(name, "container", *args, **linux)
        container.create()
        container.start()
        return container

    def remove(self) -> None:
        """Remove the pod."""
        self.pod.kill()
        assert self.pod.wait() == 137
        self.pod.delete()


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A short path: those of sockets and FIFOs are limited."""
    with tempfile.TemporaryDirectory(prefix="kata-crio-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def crio(folder: Path) -> Iterator[CriO]:
    """A pod with an interface; it is removed, and then nothing of it may be left."""
    socket_path = address.socket_path("", "default", POD)
    with making_namespaces() as make:
        netns = make()
        netns.ip(
            "link add eth0 type veth peer name peer",
            "addr add 10.9.8.7/24 dev eth0",
            "link set peer up",
            "link set eth0 up",
        )
        (folder / "rootfs").mkdir()
        engine = CriO(folder, make_rootfs(folder / "rootfs"), netns)
        yield engine
        engine.remove()
    assert_gone(POD)
    assert not os.path.exists(socket_path)


def test_the_answer_of_start_is_the_pods_address(crio: CriO) -> None:
    container = crio.add("same-shim", "container", "/bin/true")
    wanted = f"unix://{address.socket_path('', 'default', POD)}"
    assert container.started.stdout == crio.pod.started.stdout == wanted
    assert len(find_pids(POD, QEMU)) == 1


def test_a_containers_life(crio: CriO) -> None:
    script = "hostname; ip -4 addr show eth0; uname -r; exit 7"
    container = crio.add("life", "container", "sh", "-c", script)
    container.create()
    assert container.status() == "CREATED"
    container.start()
    assert container.wait() == 7
    assert (container.status(), container.state().exit_status) == ("STOPPED", 7)
    container.delete()
    told = container.output.decode()
    assert told.startswith("pod-of-cri-o\n")
    assert "inet 10.9.8.7/24" in told
    assert os.uname().release not in told
    # The shutdown after it was one of many.
    assert crio.pod.status() == "RUNNING"


def test_an_exec_and_statistics(crio: CriO) -> None:
    container = crio.run("exec", "sleep", "1000")
    process = {"args": ["sh", "-c", "exit 3"], "cwd": "/", "env": ["PATH=/bin"]}
    spec = any_pb2.Any(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/Process",
        value=json.dumps({**process, "user": {"uid": 0, "gid": 0}}).encode(),
    )
    request = task_pb2.ExecProcessRequest(id="exec", exec_id="e1", spec=spec)
    container.call("Exec", request, empty_pb2.Empty)
    started = task_pb2.StartRequest(id="exec", exec_id="e1")
    container.call("Start", started, task_pb2.StartResponse)
    ended = container.call(
        "Wait", task_pb2.WaitRequest(id="exec", exec_id="e1"), task_pb2.WaitResponse
    )
    assert ended.exit_status == 3
    stats = container.call("Stats", task_pb2.StatsRequest(id="exec"), task_pb2.StatsResponse).stats
    # CRI-O takes those of either version of cgroups.
    if stats.type_url == "io.containerd.cgroups.v1.Metrics":
        assert cgroups_v1_pb2.Metrics.FromString(stats.value).memory.usage.usage > 0
    else:
        assert stats.type_url == "io.containerd.cgroups.v2.Metrics"
        assert cgroups_v2_pb2.Metrics.FromString(stats.value).memory.usage > 0
    container.kill()
    assert container.wait() == 137
    container.delete()


def test_the_bundle_names_the_shim_after_a_restart(crio: CriO) -> None:
    container = crio.run("restart", "sleep", "1000")
    container.reconnect()
    state = container.state()
    assert state.stdout == f"{container.bundle}/fifo"
    assert container.status() == "RUNNING"
    container.kill()
    container.wait()
    container.delete()


def test_a_container_without_memory_leaves_a_file(crio: CriO) -> None:
    fill = "dd if=/dev/zero of=/dev/null bs=100M count=1"
    limit = {"memory": {"limit": 16 << 20}}
    container = crio.run("oom", "sh", "-c", fill, resources=limit)
    assert container.wait() == 137
    deadline = threading.Event()
    for _ in range(100):
        if (container.bundle / "oom").exists():
            break
        deadline.wait(0.05)
    assert (container.bundle / "oom").exists()
    container.delete()


def test_a_container_of_no_pod(folder: Path) -> None:
    annotations = {
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.SandboxID": "not-there",
    }
    with pytest.raises(AssertionError, match="its sandbox not-there does not run"):
        Container(folder / "alone", "alone", {"annotations": annotations})


@pytest.mark.parametrize(
    ("name", "path", "reason"),
    [
        ("vanished", "/run/netns/not-there", "No such file or directory"),
        ("other-file", "/etc/hostname", "it is none"),
    ],
)
def test_a_network_namespace_that_is_none(crio: CriO, name: str, path: str, reason: str) -> None:
    kinds = ("ipc", "uts", "pid", "mount")
    namespaces = [{"type": "network", "path": path}, *({"type": other} for other in kinds)]
    pod = crio.add(name, "sandbox", "/pause", namespaces=namespaces)
    with pytest.raises(RpcError, match=f"network namespace {path}: {reason}"):
        pod.create()
    pod.give_up()
    assert_gone(name)
    assert crio.pod.status() == "RUNNING"


def test_a_second_container_of_a_name(crio: CriO, folder: Path) -> None:
    container = crio.run("twice", "sleep", "1000")
    with pytest.raises(RpcError, match="exists already"):
        container.call(
            "Create",
            task_pb2.CreateTaskRequest(id="twice", bundle=str(container.bundle)),
            task_pb2.CreateTaskResponse,
        )
    container.kill()
    container.wait()
    container.delete()
