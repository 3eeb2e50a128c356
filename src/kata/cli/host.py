"""What this host offers: programs and their versions, devices, memory.  Only looks."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import kata

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# A program of its own, since a processor that hangs can only be ended with its process.
_KVM_PROBE = "host/hypervisor/kvm_probe.py"
_KVM_TIMEOUT_S = 5.0
# A loop that takes well under 1 ms on hardware takes 40 and more where KVM emulates.
_KVM_LIMIT_MS = 10.0
_VERSION_TIMEOUT_S = 10.0
_VERSION = re.compile(r"\d+\.\d+(\.\d+)*")


def find_version(argv: Sequence[str]) -> str:
    """Return the version that a program tells; empty where it does not, or there is none."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = _VERSION.search(done.stdout + done.stderr)
    return found[0] if found and done.returncode == 0 else ""


def find_kvm_obstacle() -> str:
    """Return why KVM cannot be used; empty where it can."""
    if not os.path.exists("/dev/kvm"):
        return "/dev/kvm does not exist"
    probe = os.path.join(os.path.dirname(kata.__file__ or ""), _KVM_PROBE)
    try:
        done = subprocess.run(
            [sys.executable, "-IS", probe],
            capture_output=True,
            text=True,
            timeout=_KVM_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "its processors hang"
    if done.returncode:
        return f"the probe failed: {done.stdout.strip() or done.stderr.strip()[-200:]}"
    took_ms = float(done.stdout)
    return f"it only emulates: a loop took {took_ms:.0f} ms" if took_ms > _KVM_LIMIT_MS else ""


def find_device_obstacle(path: str) -> str:
    """Return why a device cannot be used; empty where it can."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{path}: {error.strerror}"
    return ""


def find_free_mib(folder: str) -> int:
    """Return the memory that is free in a folder of memory."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize >> 20


def describe_host() -> dict[str, object]:
    """Return what a report of a fault should say of the host."""
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = ""
    with open("/proc/meminfo") as file:
        memory = dict(line.split(":", 1) for line in file)
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "distribution": system,
        "cpus": os.cpu_count() or 0,
        "memory_mib": int(memory["MemTotal"].split()[0]) >> 10,
        "cgroup_version": 2 if unified else 1,
        "python": platform.python_version(),
    }
