"""How long a guest takes to its agent's first answer: bare QEMU, and through the shim."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.samples import Figure
from kata.base.statefolder import ROOT
from kata.config.load import load_config
from kata.host.hypervisor.accelerator import choose_accelerator
from kata.host.resource.sizing import Size
from kata.host.sandbox.plan import plan_vm
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from kata.rpc.pb import empty_pb2, health_pb2, task_pb2
from tools.busybox_image import BUSYBOX
from tools.setup import CONFIGURATION
from tools.steps import BUILD

_TIMEOUT_S = 60.0
_NAMESPACES = ("pid", "ipc", "uts", "mount", "network")
_SERVICE = "containerd.task.v2.Task"
_ANSWERS = "agent answers"
_STARTED = "machine started"


@dataclass(frozen=True, slots=True)
class Start:
    """How long a sandbox took from its shim's exec to its agent's answer, and with what machine."""

    took_s: float
    is_copy: bool
    is_warm: bool


def measure_boot(rounds: int, configuration: str) -> list[Figure]:
    """Boot in turn by bare QEMU and by the shim; returns times and ratio."""
    pairs = [(start_shim(configuration).took_s, boot_bare()) for _ in range(rounds + 1)][1:]
    return [
        Figure("shim's exec to agent's first answer, cold", "s", tuple(a for a, _ in pairs)),
        Figure("bare QEMU's exec to agent's first answer", "s", tuple(b for _, b in pairs)),
        Figure("ratio of shim to bare QEMU, cold", "", tuple(a / b for a, b in pairs), 1.25),
    ]


def boot_bare() -> float:
    """Boot kernel and initrd with nothing but the agent's port; returns seconds."""
    config = load_config(CONFIGURATION, {})
    accelerator = choose_accelerator(config.hypervisor.accel, ROOT).name
    size = Size(1, config.hypervisor.default_memory_mib)
    spec = plan_vm("bench", config, size, accelerator, None)
    ours, theirs = socket.socketpair()
    argv = [
        spec.binary, "-machine", "q35", "-accel", accelerator,
        "-cpu", "host" if accelerator == "kvm" else "max", "-m", f"{spec.memory_mib}M",
        "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
        "-kernel", spec.kernel, "-initrd", spec.initrd, "-append", " ".join(spec.kernel_params),
        "-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,fd={theirs.fileno()}",
        "-device", "virtserialport,chardev=agent,name=agent.channel.0",
    ]  # fmt: skip
    started = time.perf_counter()
    with subprocess.Popen(argv, pass_fds=[theirs.fileno()], stderr=subprocess.DEVNULL) as machine:
        theirs.close()
        client = Client(Channel.from_socket(ours))
        client.call(
            "grpc.Health/Check",
            health_pb2.CheckRequest(),
            health_pb2.HealthCheckResponse,
            _TIMEOUT_S,
        )
        took = time.perf_counter() - started
        client.close()
        machine.kill()
    return took


def start_shim(configuration: str, namespace: str = "bench") -> Start:
    """Create a task by the shim itself, without an engine; ``namespace`` is the engine's."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
        bundle = Path(folder)
        _write_bundle(bundle)
        log = _LogReader(bundle / "log")
        name = f"bench-{os.getpid()}"
        program = f"{BUILD}/bin/containerd-shim-kata-v2"
        argv = [program, "-namespace", namespace, "-address", folder]
        started = time.time()
        done = subprocess.run(
            [*argv, "-id", name, "start"],
            cwd=folder,
            env={**os.environ, "KATA_CONF_FILE": configuration},
            capture_output=True,
            text=True,
            check=True,
        )
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(done.stdout.removeprefix("unix://"))
        client = Client(Channel.from_socket(sock))
        try:
            request = task_pb2.CreateTaskRequest(id=name, bundle=folder)
            client.call(f"{_SERVICE}/Create", request, task_pb2.CreateTaskResponse, _TIMEOUT_S)
            took_s = log.wait_for(_ANSWERS)[0] - started
            machine = log.wait_for(_STARTED)[1]
            delete = task_pb2.DeleteRequest(id=name)
            client.call(f"{_SERVICE}/Delete", delete, task_pb2.DeleteResponse, _TIMEOUT_S)
        finally:
            shutdown = task_pb2.ShutdownRequest(id=name, now=True)
            client.call(f"{_SERVICE}/Shutdown", shutdown, empty_pb2.Empty, _TIMEOUT_S)
            client.close()
        return Start(took_s, "copy=True" in machine, "warm=True" in machine)


class _LogReader:
    """Reads the shim's log as containerd does and notes when each message came first."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        self._seen: dict[str, tuple[float, str]] = {}
        threading.Thread(target=self._run, daemon=True).start()

    def wait_for(self, message: str) -> tuple[float, str]:
        """Return when a message came (seconds since the epoch), and its line."""
        deadline = time.monotonic() + _TIMEOUT_S
        while message not in self._seen and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._seen[message]

    def _run(self) -> None:
        with open(self._fd, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if match := re.search(r'msg="([^"]*)"', line):
                    self._seen.setdefault(match[1], (time.time(), line))


def _write_bundle(bundle: Path) -> None:
    rootfs = bundle / "rootfs" / "bin"
    rootfs.mkdir(parents=True)
    for name in ("dev", "proc"):
        (bundle / "rootfs" / name).mkdir()
    shutil.copy(BUSYBOX, rootfs / "busybox")
    spec = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/busybox", "true"],
            "cwd": "/",
            "env": ["PATH=/bin"],
        },
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": kind} for kind in _NAMESPACES]},
    }
    (bundle / "config.json").write_text(json.dumps(spec))
