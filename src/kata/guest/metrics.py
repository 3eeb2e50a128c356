"""The guest's metrics as Prometheus text, with upstream's names (kata_agent_*, kata_guest_*)."""

from __future__ import annotations

import os

from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TypeAlias

    # Labels in order, and the value.
    Sample: TypeAlias = tuple[tuple[tuple[str, str], ...], float]

_CPU = (
    "user",
    "nice",
    "system",
    "idle",
    "iowait",
    "irq",
    "softirq",
    "steal",
    "guest",
    "guest_nice",
)
_NETWORK = (
    "recv_bytes",
    "recv_packets",
    "recv_errs",
    "recv_drop",
    "recv_fifo",
    "recv_frame",
    "recv_compressed",
    "recv_multicast",
    "sent_bytes",
    "sent_packets",
    "sent_errs",
    "sent_drop",
    "sent_fifo",
    "sent_colls",
    "sent_carrier",
    "sent_compressed",
)
_DISK = (
    "reads",
    "merged",
    "sectors_read",
    "time_reading",
    "writes",
    "writes_merged",
    "sectors_written",
    "time_writing",
    "in_progress",
    "time_in_progress",
    "weighted_time_in_progress",
    "discards",
    "discards_merged",
    "sectors_discarded",
    "time_discarding",
    "flushes",
    "time_flushing",
)
# Positions in /proc/<pid>/stat after the name, as proc(5) counts from 3.
_PROC_STAT = {"utime": 14, "stime": 15, "cutime": 16, "cstime": 17}


def render() -> str:
    """Read the kernel's files and render all families."""
    stat = _stat_columns(_read("/proc/self/stat"))
    page = os.sysconf("SC_PAGE_SIZE")
    ticks = os.sysconf("SC_CLK_TCK")
    families: tuple[tuple[str, str, Iterable[Sample]], ...] = (
        ("kata_agent_threads", "threads of the agent", _one(stat[20])),
        (
            "kata_agent_total_time",
            "processor time of the agent in seconds",
            _one((stat[14] + stat[15]) / ticks),
        ),
        ("kata_agent_total_vm", "virtual memory of the agent in bytes", _one(stat[23])),
        ("kata_agent_total_rss", "resident memory of the agent in bytes", _one(stat[24] * page)),
        (
            "kata_agent_proc_stat",
            "/proc/<pid>/stat of the agent, in ticks",
            _items({name: stat[position] for name, position in _PROC_STAT.items()}),
        ),
        (
            "kata_agent_proc_status",
            "/proc/<pid>/status of the agent, memory in KiB",
            _items(parse_status(_read("/proc/self/status"))),
        ),
        (
            "kata_agent_io_stat",
            "/proc/<pid>/io of the agent",
            _items(parse_colons(_read("/proc/self/io"))),
        ),
        ("kata_guest_load", "/proc/loadavg", _items(parse_load(_read("/proc/loadavg")))),
        ("kata_guest_tasks", "tasks of the guest", _items(parse_tasks(_read("/proc/loadavg")))),
        ("kata_guest_cpu_time", "/proc/stat, in ticks", parse_cpu(_read("/proc/stat"))),
        ("kata_guest_vm_stat", "/proc/vmstat", _items(parse_pairs(_read("/proc/vmstat")))),
        (
            "kata_guest_meminfo",
            "/proc/meminfo in bytes",
            _items(parse_memory(_read("/proc/meminfo"))),
        ),
        ("kata_guest_netdev_stat", "/proc/net/dev", parse_network(_read("/proc/net/dev"))),
        ("kata_guest_diskstat", "/proc/diskstats", parse_disks(_read("/proc/diskstats"))),
    )
    return "".join(render_family(*family) for family in families)


def render_family(name: str, description: str, samples: Iterable[Sample]) -> str:
    """Render one family; one without samples is left out."""
    lines = []
    for labels, value in samples:
        inside = ",".join(f'{key}="{text}"' for key, text in labels)
        lines.append(f"{name}{{{inside}}} {value:.15g}\n" if inside else f"{name} {value:.15g}\n")
    if not lines:
        return ""
    return f"# HELP {name} {description}\n# TYPE {name} gauge\n" + "".join(lines)


def parse_status(text: str) -> dict[str, float]:
    """Return the numbers of a status file: sizes in KiB, context switches, threads."""
    return {
        key.lower(): value
        for key, value in parse_colons(text).items()
        if key.startswith(("Vm", "Rss", "Hugetlb")) or key.endswith("ctxt_switches")
    }


def parse_colons(text: str) -> dict[str, float]:
    """Return the ``Key: number`` lines of a file; the unit behind the number is dropped."""
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[key] = float(words[0])
    return values


def parse_memory(text: str) -> dict[str, float]:
    """Return meminfo in bytes, its names in upstream's spelling (``MemTotal`` is mem_total)."""
    values: dict[str, float] = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        factor = 1024 if words[1:] == ["kB"] else 1
        values[_snake(key)] = float(words[0]) * factor
    return values


def parse_load(text: str) -> dict[str, float]:
    """Return the load averages."""
    return dict(zip(("load1", "load5", "load15"), map(float, text.split()[:3]), strict=False))


def parse_tasks(text: str) -> dict[str, float]:
    """Return the runnable and all tasks."""
    current, _, most = text.split()[3].partition("/")
    return {"cur": float(current), "max": float(most)}


def parse_pairs(text: str) -> dict[str, float]:
    """Return the ``key number`` lines of a file."""
    return {key: float(value) for key, value in (line.split() for line in text.splitlines())}


def parse_cpu(text: str) -> Iterator[Sample]:
    """Return the times of each processor and of all together."""
    for line in text.splitlines():
        name, *values = line.split()
        if name.startswith("cpu"):
            for item, value in zip(_CPU, values, strict=False):
                yield (("cpu", name[3:] or "total"), ("item", item)), float(value)


def parse_network(text: str) -> Iterator[Sample]:
    """Return the counters of each interface."""
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        for item, value in zip(_NETWORK, rest.split(), strict=False):
            yield (("interface", name.strip()), ("item", item)), float(value)


def parse_disks(text: str) -> Iterator[Sample]:
    """Return the counters of each block device."""
    for line in text.splitlines():
        _, _, name, *values = line.split()
        for item, value in zip(_DISK, values, strict=False):
            yield (("disk", name), ("item", item)), float(value)


def _stat_columns(text: str) -> list[float]:
    """Return the numbers of a stat file at the positions that proc(5) gives them."""
    rest = text.rpartition(")")[2].split()
    return [0.0, 0.0, 0.0, 0.0, *(float(word) for word in rest[1:])]


def _snake(name: str) -> str:
    parts = []
    for index, letter in enumerate(name):
        if letter.isupper() and index and name[index - 1].islower():
            parts.append("_")
        parts.append(letter.lower() if letter.isalnum() else "_")
    return "".join(parts).strip("_")


def _one(value: float) -> Iterable[Sample]:
    return [((), value)]


def _items(values: dict[str, float]) -> Iterator[Sample]:
    for name, value in values.items():
        yield (("item", name),), value


def _read(path: str) -> str:
    return files.find(path) or ""
