"""kata-runtime as an engine calls it, and bundles for it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.support import supervisor
from tools.busybox_image import busybox_layer
from tools.setup import CONFIGURATION
from tools.steps import BUILD

PROGRAM = f"{BUILD}/bin/kata-runtime"
# A machine that boots takes 4 s here, and longer beside others.
TIMEOUT_S = 60.0
_CRI = "io.kubernetes.cri"


class Runtime:
    """The program, with state of its own."""

    def __init__(self, folder: Path, configuration: str = CONFIGURATION) -> None:
        self.root = folder / "root"
        self._configuration = configuration

    def argv(self, *words: str) -> list[str]:
        """Return a whole command line."""
        return [PROGRAM, "--root", str(self.root), "--config", self._configuration, *words]

    def call(
        self, *words: str, check: bool = True, **more: Any
    ) -> subprocess.CompletedProcess[str]:
        """Call a verb and return what it said."""
        defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
        done = subprocess.run(
            self.argv(*words),
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            **{"capture_output": True, **defaults, **more},
        )
        assert not check or done.returncode == 0, (words, done)
        return done

    def create(self, bundle: Bundle, name: str, *flags: str, output: Path | None = None) -> None:
        """Create a container whose output goes to a file, or nowhere."""
        log = bundle.folder / "log"
        with open(output or "/dev/null", "wb") as file:
            done = subprocess.run(
                self.argv("--log", str(log), "create", "-b", str(bundle.folder), *flags, name),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                timeout=TIMEOUT_S,
                check=False,
            )
        assert done.returncode == 0, log.read_text()

    def begin(self, *words: str, **more: Any) -> subprocess.Popen[bytes]:
        """Call a verb that is not waited for; what it says is not read."""
        # Test runs may ignore the signal, which programs inherit.
        return subprocess.Popen(
            self.argv(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            **more,
        )

    def start_pod(self, pod: Bundle, name: str) -> None:
        """Run the sandbox of a pod, as CRI's engines describe one."""
        pod.spec["annotations"] = {f"{_CRI}.container-type": "sandbox"}
        self.create(pod.run("pause"), name)
        self.call("start", name)

    def state(self, name: str) -> dict[str, Any]:
        """Return a container's state."""
        state: dict[str, Any] = json.loads(self.call("state", name).stdout)
        return state

    def status(self, name: str) -> str:
        """Return what a container's state says it is."""
        return str(self.state(name)["status"])

    def pid(self, name: str) -> int:
        """Return the pid of a container's stand-in."""
        return int(self.state(name)["pid"])

    def wait_for_status(self, name: str, status: str) -> None:
        """Return once a container is in a state."""
        wait_until(lambda: self.status(name) == status)

    def list_names(self) -> list[str]:
        """Return the ids of all containers."""
        return self.call("list", "-q").stdout.split()

    def remove_all(self) -> None:
        """Delete whatever is left."""
        for name in self.list_names():
            self.call("delete", "--force", name)


class Supervised:
    """A container's process under a supervisor, with streams of its own."""

    def __init__(self, runtime: Runtime, bundle: Bundle, name: str, *flags: str) -> None:
        pid_file = str(bundle.folder / f"{name}.pid")
        create = ("create", "--bundle", str(bundle.folder), "--pid-file", pid_file, *flags, name)
        self.process = subprocess.Popen(
            [sys.executable, supervisor.__file__, pid_file, *runtime.argv(*create)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.created = self.process.stdout.readline() == "created\n"

    def finish(self, given: str | None = None) -> tuple[str, int]:
        """Return what the process printed, and how it ended."""
        output, errors = self.process.communicate(given, timeout=TIMEOUT_S)
        assert self.process.returncode == 0, errors
        *lines, status = output.splitlines()
        return "\n".join(lines), int(status)


class Bundle:
    """A bundle with busybox; ``spec`` can be changed, and ``save``d."""

    def __init__(self, folder: Path, rootfs: Path) -> None:
        self.folder = folder
        folder.mkdir()
        subprocess.run([PROGRAM, "spec", "--bundle", str(folder)], check=True)
        self.spec: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.spec["root"]["path"] = str(rootfs)
        self.spec["root"]["readonly"] = False
        self.spec["process"]["terminal"] = False
        self.spec["process"]["env"] = ["PATH=/bin"]

    def join(self, pod: str) -> Bundle:
        """Be a container of a pod; returns the bundle, which is still to be written down."""
        self.spec["annotations"] = {
            f"{_CRI}.container-type": "container",
            f"{_CRI}.sandbox-id": pod,
        }
        return self

    def run(self, *args: str, **process: Any) -> Bundle:
        """Have another process, and write it down; returns the bundle."""
        self.spec["process"].update(args=list(args), **process)
        self.save()
        return self

    def save(self) -> None:
        """Write the spec."""
        (self.folder / "config.json").write_text(json.dumps(self.spec))


def unpack_busybox(folder: Path) -> None:
    """Make a root file system."""
    with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as archive:
        archive.extractall(folder)


def wait_until(
    holds: Callable[[], bool], timeout_s: float = 20.0, *, pause_s: float = 0.02
) -> None:
    """Return once something holds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(pause_s)


def read_file(path: Path, wanted: str, timeout_s: float = 20.0) -> str:
    """Return a file's content once it has some words."""
    wait_until(lambda: path.exists() and wanted in path.read_text(errors="replace"), timeout_s)
    return path.read_text(errors="replace")


def is_alive(pid: int) -> bool:
    """Return whether a process runs, and is not only waiting for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_engine(
    argv: Sequence[str], *, check: bool = True, timeout_s: float = TIMEOUT_S, **more: Any
) -> subprocess.CompletedProcess[str]:
    """Run an engine's command line."""
    defaults: dict[str, Any] = {"stdin": subprocess.DEVNULL} if "input" not in more else {}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=timeout_s, check=False, **{**defaults, **more}
    )
    assert not check or done.returncode == 0, (argv, done)
    return done


def unmount_below(folder: str) -> None:
    """Give up what an engine has mounted for itself."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(folder)), reverse=True):
        subprocess.run(["umount", "-l", point], check=True)
