"""What a sandbox uses, read from two looks at its metrics.  Pure.

A part of the metrics is the guest's word: a line of another form is passed over.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_LINE = re.compile(r"(kata_[a-z_]+)(?:\{([^{}]*)\})? (\d+(?:\.\d+)?(?:e\+\d{1,2})?)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
# Processes of the host that a sandbox consists of.
_PARTS = ("shim", "hypervisor", "virtiofsd")
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Look:
    """Counters and sizes at one time (``at`` in seconds); sizes are bytes."""

    at: float
    # Processor time of the sandbox's processes on the host.
    cpu_s: float
    guest_used: float
    guest_total: float
    overhead: float
    received: float
    sent: float
    read: float
    written: float
    tasks: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What happened between two looks, a second."""

    cpu_percent: float
    received: float
    sent: float
    read: float
    written: float


def read_look(text: str, at: float) -> Look:
    """Read a sandbox's metrics; what they lack is zero."""
    samples = _Samples(text)
    ticks = sum(
        samples.get(f"kata_{part}_proc_stat", item=item)
        for part in _PARTS
        for item in ("utime", "stime")
    )
    total = samples.get("kata_guest_meminfo", item="mem_total")
    # Files of the sandbox's containers are read and written by virtiofsd, disks by QEMU.
    readers = [f"kata_{part}_io_stat" for part in ("hypervisor", "virtiofsd")]
    return Look(
        at=at,
        cpu_s=ticks / os.sysconf("SC_CLK_TCK"),
        guest_used=total - samples.get("kata_guest_meminfo", item="mem_available"),
        guest_total=total,
        overhead=samples.get("kata_shim_pod_overhead_memory_in_bytes"),
        received=samples.add_up("kata_guest_netdev_stat", "interface", item="recv_bytes"),
        sent=samples.add_up("kata_guest_netdev_stat", "interface", item="sent_bytes"),
        read=sum(samples.get(name, item="readbytes") for name in readers),
        written=sum(samples.get(name, item="writebytes") for name in readers),
        tasks=samples.get("kata_guest_tasks", item="max"),
    )


def compare(before: Look, now: Look) -> Usage:
    """Return what happened between two looks; a counter that went back has begun anew."""
    passed_s = max(now.at - before.at, 1e-3)

    def rate(earlier: float, later: float) -> float:
        return max(0.0, later - earlier) / passed_s

    return Usage(
        cpu_percent=100 * rate(before.cpu_s, now.cpu_s),
        received=rate(before.received, now.received),
        sent=rate(before.sent, now.sent),
        read=rate(before.read, now.read),
        written=rate(before.written, now.written),
    )


def render_bytes(count: float) -> str:
    """Return a number of bytes for people: three digits and a unit."""
    for unit in ("B", "K", "M", "G"):
        if count < 1000:
            return f"{count:.0f}{unit}" if count >= 10 or unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"


class _Samples:
    """Values by name and labels."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for line in text.splitlines():
            found = _LINE.fullmatch(line)
            if found:
                labels = frozenset(_LABEL.findall(found[2] or ""))
                self._values[found[1], labels] = float(found[3])

    def get(self, name: str, **labels: str) -> float:
        """Return a sample's value."""
        return self._values.get((name, frozenset(labels.items())), 0.0)

    def add_up(self, name: str, key: str, **labels: str) -> float:
        """Return the sum over a label, without the loopback."""
        wanted = set(labels.items())
        return sum(
            value
            for (other, found), value in self._values.items()
            if other == name and wanted < found and _find(found, key) != _LOOPBACK
        )


def _find(labels: frozenset[tuple[str, str]], key: str) -> str:
    found: Mapping[str, str] = dict(labels)
    return found.get(key, "")
