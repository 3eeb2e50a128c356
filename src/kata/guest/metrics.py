"""The guest's metrics as Prometheus text, with upstream's names (kata_agent_*, kata_guest_*)."""

from __future__ import annotations

from kata.base.exposition import COUNTER, GAUGE, items, one, render_families
from kata.base.procmetrics import ProcessFiles, parse_status, read_network
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.base.exposition import Family, Sample

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


def render(asked: int) -> str:
    """Read the kernel's files and render all families; ``asked`` is how often that was done."""
    return render_families((*_agent(asked), *_guest()))


def _agent(asked: int) -> Iterator[Family]:
    own = ProcessFiles("self")
    prefix = "kata_agent"
    yield f"{prefix}_scrape_count", COUNTER, "how often metrics were asked for", one(asked)
    yield f"{prefix}_threads", GAUGE, "threads of the agent", one(own.threads)
    yield f"{prefix}_total_time", GAUGE, "processor time of the agent in seconds", one(own.cpu_s)
    virtual = one(own.virtual_bytes)
    yield f"{prefix}_total_vm", GAUGE, "virtual memory of the agent in bytes", virtual
    resident = one(own.resident_bytes)
    yield f"{prefix}_total_rss", GAUGE, "resident memory of the agent in bytes", resident
    text = "/proc/<pid>/stat of the agent, in ticks"
    yield f"{prefix}_proc_stat", GAUGE, text, items(own.times())
    text = "/proc/<pid>/status of the agent, memory in KiB"
    yield f"{prefix}_proc_status", GAUGE, text, items(parse_status(own.status))
    yield f"{prefix}_io_stat", GAUGE, "/proc/<pid>/io of the agent", items(own.io)
    yield from own.families(prefix, "agent")


def _guest() -> Iterator[Family]:
    load, stat = _read("/proc/loadavg"), _read("/proc/stat")
    yield "kata_guest_load", GAUGE, "/proc/loadavg", items(parse_load(load))
    yield "kata_guest_tasks", GAUGE, "tasks of the guest", items(parse_tasks(load))
    yield "kata_guest_cpu_time", GAUGE, "/proc/stat, in ticks", parse_cpu(stat)
    memory = items(parse_memory(_read("/proc/meminfo")))
    yield "kata_guest_meminfo", GAUGE, "/proc/meminfo in bytes", memory
    yield "kata_guest_vm_stat", GAUGE, "/proc/vmstat", items(parse_pairs(_read("/proc/vmstat")))
    yield "kata_guest_netdev_stat", GAUGE, "/proc/net/dev", read_network("self")
    disks = parse_disks(_read("/proc/diskstats"))
    yield "kata_guest_diskstat", GAUGE, "/proc/diskstats", disks


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
                yield "", (("cpu", name[3:] or "total"), ("item", item)), float(value)


def parse_disks(text: str) -> Iterator[Sample]:
    """Return the counters of each block device."""
    for line in text.splitlines():
        _, _, name, *values = line.split()
        for item, value in zip(_DISK, values, strict=False):
            yield "", (("disk", name), ("item", item)), float(value)


def _snake(name: str) -> str:
    parts = []
    for index, letter in enumerate(name):
        if letter.isupper() and index and name[index - 1].islower():
            parts.append("_")
        parts.append(letter.lower() if letter.isalnum() else "_")
    return "".join(parts).strip("_")


def _read(path: str) -> str:
    return files.find(path) or ""
