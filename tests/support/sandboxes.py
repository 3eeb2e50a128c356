"""What one sandbox has on the host, for tests that kill parts of it or check that it is gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kata.base.mountinfo import list_mount_points
from kata.host.shim import address
from tests.support.leaks import find_processes

SHIM = "containerd-shim-kata-v2"
QEMU = "qemu-system-x86_64"
VIRTIOFSD = "virtiofsd"
# What has lost its peer has ended after this.
_MOMENT_S = 3.0


def find_pids(sandbox: str, program: str) -> list[int]:
    """Return the pids of one program of a sandbox, the oldest first."""
    found = [line.split() for line in find_processes(sandbox)]
    return sorted(int(pid) for pid, name in found if name == program)


def wait_for(sandbox: str, program: str, timeout_s: float = 30.0) -> int:
    """Return the pid of a sandbox's program as soon as it runs."""
    deadline = time.monotonic() + timeout_s
    while not (pids := find_pids(sandbox, program)):
        assert time.monotonic() < deadline, f"no {program} of {sandbox}"
        time.sleep(0.02)
    return pids[0]


def kill(sandbox: str, program: str) -> None:
    """Kill a program of a sandbox, the oldest process of it.

    If it is still there after a moment, that was a launcher whose work was done, and the next is
    killed.
    """
    while True:
        pid = wait_for(sandbox, program)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        if _is_ended_within(_MOMENT_S, sandbox, program):
            return


def _is_ended_within(timeout_s: float, sandbox: str, program: str) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not find_pids(sandbox, program):
            return True
        time.sleep(0.02)
    return False


def find_leftovers(sandbox: str, socket_path: str = "") -> list[str]:
    """Return what a sandbox, or others whose name begins with its, has on the host."""
    found = [f"process {line}" for line in find_processes(sandbox)]
    paths = [
        *(str(path) for path in Path("/run/kata").glob(f"{sandbox}*")),
        *(str(path) for path in Path("/run/kata-containers/shared/sandboxes").glob(f"{sandbox}*")),
        socket_path,
        *(str(path) for path in Path("/dev/shm").glob(f"*{sandbox}*")),
        *(str(path) for path in Path("/sys/fs/cgroup").glob(f"*/**/{sandbox}")),
    ]
    found += [f"file {path}" for path in paths if path and os.path.lexists(path)]
    return found + [f"mount {point}" for point in list_mount_points() if sandbox in point]


def assert_gone(
    sandbox: str, containerd_address: str = "", namespace: str = "default", timeout_s: float = 5.0
) -> None:
    """Fail if anything is left of a sandbox after a moment."""
    path = address.socket_path(containerd_address, namespace, sandbox) if containerd_address else ""
    deadline = time.monotonic() + timeout_s
    while left := find_leftovers(sandbox, path):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)
