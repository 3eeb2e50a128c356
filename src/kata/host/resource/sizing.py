"""How large a sandbox's machine is: what the configuration gives it, and its containers' limits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata.config.records import HypervisorConfig

# kubelet's sums over a pod's containers, as containerd passes them on.
_MEMORY = "io.kubernetes.cri.sandbox-memory"
_QUOTA = "io.kubernetes.cri.sandbox-cpu-quota"
_PERIOD = "io.kubernetes.cri.sandbox-cpu-period"
_DEFAULT_PERIOD = 100_000
# What QEMU and virtiofsd need besides the guest's memory.
OVERHEAD_MIB = 160


@dataclass(frozen=True, slots=True)
class Limits:
    """What containers may use together; 0 is no limit."""

    memory_bytes: int = 0
    cpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Size:
    """What the machine gets."""

    vcpus: int
    memory_mib: int


def read_limits(spec: dict[str, Any], annotations: Mapping[str, str]) -> Limits:
    """Return a pod's limits from its annotations, or a lone container's from its spec."""
    resources = (spec.get("linux") or {}).get("resources") or {}
    memory = (resources.get("memory") or {}).get("limit") or 0
    cpu = resources.get("cpu") or {}
    memory = max(_number(annotations.get(_MEMORY)), memory)
    quota = _number(annotations.get(_QUOTA)) or cpu.get("quota") or 0
    period = _number(annotations.get(_PERIOD)) or cpu.get("period") or _DEFAULT_PERIOD
    # Engines write the largest number of some type, or -1, for no limit.
    return Limits(
        memory_bytes=memory if 0 < memory < 1 << 60 else 0,
        cpus=quota / period if 0 < quota < 1 << 60 else 0.0,
    )


def plan_size(config: HypervisorConfig, limits: Limits, free_mib: int) -> Size:
    """Return the machine's size; a limit is no demand, so it ends where the host does.

    ``free_mib`` is what is left for the guest's memory.
    """
    host_cpus = os.cpu_count() or 1
    if config.default_vcpus < 0:
        vcpus = host_cpus
    else:
        most = config.default_maxvcpus or max(host_cpus, math.ceil(config.default_vcpus))
        vcpus = min(max(1, math.ceil(config.default_vcpus + limits.cpus)), most)
    memory_mib = config.default_memory_mib
    if limits.memory_bytes:
        most = min(config.default_maxmemory_mib or free_mib, free_mib)
        wanted = memory_mib + math.ceil(limits.memory_bytes / (1 << 20))
        memory_mib = max(memory_mib, min(wanted, most))
    return Size(vcpus, memory_mib)


def _number(text: str | None) -> int:
    try:
        return int(text or 0)
    except ValueError:
        return 0
