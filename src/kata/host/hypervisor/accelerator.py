"""Choose the accelerator: KVM where it works, else emulation, with the reason.

The probe's answer is kept for as long as the host is up.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

from kata.base.errors import Code, KataError
from kata.host.hypervisor import kvm_probe

# 100 000 iterations: well under 1 ms on hardware, 46 to 144 ms where KVM emulates.
_LIMIT_MS = 10.0
# An answer takes 0.2 s at worst; a processor that hangs never gives one.
_PROBE_TIMEOUT_S = 5.0
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


@dataclass(frozen=True, slots=True)
class Acceleration:
    """The accelerator to use, and why not KVM (empty when it is KVM or was asked for)."""

    name: str
    reason: str


def choose_accelerator(wanted: str, cache_folder: str) -> Acceleration:
    """Resolve ``auto``, ``kvm`` or ``tcg``.  Asking for kvm where it does not work is an error."""
    if wanted == "tcg":
        return Acceleration("tcg", "")
    reason = _cached_reason(os.path.join(cache_folder, "kvm-probe"))
    if not reason:
        return Acceleration("kvm", "")
    if wanted == "kvm":
        raise KataError(
            f"use KVM: {reason}",
            Code.FAILED_PRECONDITION,
            'set accel = "auto" in [hypervisor.qemu] to fall back to emulation',
        )
    return Acceleration("tcg", reason)


def _cached_reason(path: str) -> str:
    with open(_BOOT_ID) as file:
        boot_id = file.read().strip()
    try:
        with open(path) as file:
            saved_boot, _, reason = file.read().partition("\n")
        if saved_boot == boot_id:
            return reason
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    reason = probe_kvm()
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "w") as file:
        file.write(f"{boot_id}\n{reason}")
    os.replace(temporary, path)
    return reason


def probe_kvm() -> str:
    """Return why KVM cannot be used on this host; empty when it can."""
    if not os.path.exists("/dev/kvm"):
        return "/dev/kvm does not exist"
    try:
        probe = subprocess.run(
            [sys.executable, "-IS", kvm_probe.__file__],
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"a loop of {kvm_probe.ITERATIONS} instructions did not end"
    if probe.returncode != 0:
        return f"the probe failed: {probe.stdout.strip() or probe.stderr.strip()[-200:]}"
    took_ms = float(probe.stdout)
    if took_ms > _LIMIT_MS:
        return f"it only emulates ({kvm_probe.ITERATIONS} iterations took {took_ms:.0f} ms)"
    return ""
