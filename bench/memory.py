"""What one idle container costs: each process's share of memory, and what the guest uses inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bench.samples import Figure
from tests.support.containerd import Containerd
from tests.support.leaks import find_processes

_KIB_IN_MB = 1024 / 1e6


@dataclass(slots=True)
class Mapping:
    """One mapping of a process (proc(5), smaps)."""

    permissions: str
    path: str
    pss_kib: int = 0


def measure_memory(containerd: Containerd, name: str) -> list[Figure]:
    """Return the proportional set sizes in MB, guest memory and translated code told apart."""
    limits = {"containerd-shim-kata-v2": 18.0}
    figures = [
        Figure(f"PSS of {kind}", "MB", (size,), limits.get(kind))
        for kind, size in sorted(list_sizes(name).items())
    ]
    return [*figures, _guest_memory(containerd, name)]


def list_sizes(name: str) -> dict[str, float]:
    """Return the proportional set sizes in MB of a sandbox's processes, by kind."""
    sizes: dict[str, float] = {}
    for line in find_processes(name):
        pid, program = line.split()
        for mapping in read_mappings(pid):
            kind = _kind(program, mapping)
            sizes[kind] = sizes.get(kind, 0.0) + mapping.pss_kib * _KIB_IN_MB
    return sizes


def read_mappings(pid: str) -> Iterator[Mapping]:
    """Read /proc/<pid>/smaps."""
    current = Mapping("", "")
    with open(f"/proc/{pid}/smaps") as file:
        for line in file:
            if match := re.match(r"[0-9a-f]+-[0-9a-f]+ (\S+) \S+ \S+ \d+\s*(.*)", line):
                if current.pss_kib:
                    yield current
                current = Mapping(match[1], match[2].strip())
            elif line.startswith("Pss:"):
                current.pss_kib = int(line.split()[1])
    yield current


def _kind(program: str, mapping: Mapping) -> str:
    if program != "qemu-system-x86_64":
        return program
    if mapping.path.startswith(("/dev/shm/", "/memfd:kata-guest")):
        return "qemu: guest memory"
    if "x" in mapping.permissions and not mapping.path:
        return "qemu: translated code (emulation only)"
    return "qemu: its own"


def _guest_memory(containerd: Containerd, name: str) -> Figure:
    text = containerd.exec(name, "cat", "/proc/meminfo").stdout.decode()
    fields = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()}
    used = (fields["MemTotal"] - fields["MemAvailable"]) * _KIB_IN_MB
    return Figure("memory used inside the idle guest", "MB", (used,))
