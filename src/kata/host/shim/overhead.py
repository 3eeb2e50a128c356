"""What a sandbox costs its host beyond what its containers use: never less than nothing.

Upstream takes the containers' use from that of the host's cgroup, which yields negative numbers
where the guest has memory that the host has never given it; here each part is bounded.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

# Within less, the kernel's ticks say nothing.
_SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class GuestUse:
    """What a container uses, as its cgroup in the guest tells."""

    id: str
    memory_bytes: int
    cpu_s: float


def memory_overhead(pids: Iterable[int], uses: Iterable[GuestUse]) -> int:
    """Return bytes: all of the shim, and what the machine has beyond the containers' memory.

    ``pids`` are the machine's processes.  Memory that several share counts once.
    """
    machine = sum(map(read_pss, pids))
    return read_pss(os.getpid()) + max(0, machine - sum(use.memory_bytes for use in uses))


@dataclass(slots=True)
class CpuOverhead:
    """Compares with the last time it was asked, or with the beginning."""

    asked_at: float
    percent: float = 0.0
    _host_s: Mapping[str, float] = field(default_factory=dict)
    _guest_s: Mapping[str, float] = field(default_factory=dict)

    def measure(self, pids: Sequence[int], uses: Sequence[GuestUse], now: float) -> float:
        """Return percent of one processor, since the last call; ``now`` in seconds."""
        elapsed_s = now - self.asked_at
        if elapsed_s >= _SHORTEST_S:
            host_s = {str(pid): read_cpu_s(pid) for pid in (*pids, os.getpid())}
            guest_s = {use.id: use.cpu_s for use in uses}
            extra_s = _growth(self._host_s, host_s) - _growth(self._guest_s, guest_s)
            self.percent = 100 * max(0.0, extra_s) / elapsed_s
            self.asked_at, self._host_s, self._guest_s = now, host_s, guest_s
        return self.percent


def _growth(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    return sum(max(0.0, value - before.get(key, 0.0)) for key, value in now.items())


def read_pss(pid: int) -> int:
    """Return the memory of a process in bytes, its part of what is shared.  Raises OSError."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0


def read_cpu_s(pid: int) -> float:
    """Return the processor time of a process in seconds.  Raises OSError."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
