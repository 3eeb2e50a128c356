"""What a sandbox costs its host beyond what its containers use: never less than nothing.

Upstream takes the containers' use from that of the host's cgroup, which yields negative numbers
where the guest has memory that the host has never given it; here each part is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from kata.base.procmetrics import read_cpu_s

# Within less, the kernel's ticks say nothing.
_SHORTEST_S = 0.1


@dataclass(frozen=True, slots=True)
class GuestUse:
    """What a container uses, as its cgroup in the guest tells."""

    id: str
    memory_bytes: int
    cpu_s: float


def memory_overhead(pids: Sequence[int], uses: Iterable[GuestUse]) -> int:
    """Return bytes: all of the shim, and what the machine has beyond the containers' memory.

    ``pids`` are the shim and the machine's processes.  Memory that several share counts once.
    """
    shim, *machine = map(read_pss, pids)
    return shim + max(0, sum(machine) - sum(use.memory_bytes for use in uses))


class CpuOverhead:
    """Compares with the last time it was asked; first with the time it was made."""

    def __init__(self, pids: Iterable[int], now: float) -> None:
        self._asked_at = now
        self._percent = 0.0
        self._host_s = _read_all(pids)
        self._guest_s: Mapping[str, float] = {}

    def measure(self, pids: Iterable[int], uses: Iterable[GuestUse], now: float) -> float:
        """Return percent of one processor, since the last call; ``now`` in seconds."""
        elapsed_s = now - self._asked_at
        if elapsed_s >= _SHORTEST_S:
            host_s = _read_all(pids)
            guest_s = {use.id: use.cpu_s for use in uses}
            extra_s = _growth(self._host_s, host_s) - _growth(self._guest_s, guest_s)
            self._percent = 100 * max(0.0, extra_s) / elapsed_s
            self._asked_at, self._host_s, self._guest_s = now, host_s, guest_s
        return self._percent


def _read_all(pids: Iterable[int]) -> dict[str, float]:
    return {str(pid): read_cpu_s(pid) for pid in pids}


def _growth(before: Mapping[str, float], now: Mapping[str, float]) -> float:
    return sum(max(0.0, value - before.get(key, 0.0)) for key, value in now.items())


def read_pss(pid: int) -> int:
    """Return the memory of a process in bytes, its part of what is shared.  Raises OSError."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0
