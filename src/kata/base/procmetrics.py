"""Metrics of a process and its network from /proc, with the names that upstream's have."""

from __future__ import annotations

import os

from kata.base.exposition import COUNTER, GAUGE, items, one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kata.base.exposition import Family, Sample

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
# Positions in /proc/<pid>/stat, as proc(5) counts them.
_TIMES = {"utime": 14, "stime": 15, "cutime": 16, "cstime": 17}
_RLIM_INFINITY = float((1 << 64) - 1)
_THREADS, _START, _VSIZE, _RSS = 20, 22, 23, 24


class ProcessFiles:
    """What the kernel tells of one process, read once."""

    def __init__(self, pid: int | str) -> None:
        """``pid`` may be ``self``.  Raises OSError when there is no such process."""
        self.folder = f"/proc/{pid}"
        self.stat = parse_stat(_read(f"{self.folder}/stat"))
        self.status = _read(f"{self.folder}/status")
        # A kernel can be built without.
        self.io = parse_colons(_find(f"{self.folder}/io"))
        self.open_fds = len(os.listdir(f"{self.folder}/fd"))

    def times(self) -> dict[str, float]:
        """Return processor times in ticks."""
        return {name: self.stat[position] for name, position in _TIMES.items()}

    @property
    def cpu_s(self) -> float:
        """Processor time of the process in seconds."""
        return _cpu_s(self.stat)

    @property
    def threads(self) -> float:
        """How many threads it has."""
        return self.stat[_THREADS]

    @property
    def virtual_bytes(self) -> float:
        """Its address space."""
        return self.stat[_VSIZE]

    @property
    def resident_bytes(self) -> float:
        """What of it is in memory."""
        return self.stat[_RSS] * os.sysconf("SC_PAGE_SIZE")

    def families(self, prefix: str, what: str) -> Iterator[Family]:
        """Return the families that Prometheus's client libraries have of their own process."""
        text = f"of the {what}"
        limits = _read(f"{self.folder}/limits")
        counted = f"{prefix}_process"
        yield f"{counted}_cpu_seconds_total", COUNTER, f"processor time {text}", one(self.cpu_s)
        yield f"{counted}_open_fds", GAUGE, f"open descriptors {text}", one(self.open_fds)
        max_fds = one(parse_limit(limits, "Max open files"))
        yield f"{counted}_max_fds", GAUGE, f"descriptors {text} at most", max_fds
        resident = one(self.resident_bytes)
        yield f"{counted}_resident_memory_bytes", GAUGE, f"resident memory {text}", resident
        virtual = one(self.virtual_bytes)
        yield f"{counted}_virtual_memory_bytes", GAUGE, f"virtual memory {text}", virtual
        limit = one(parse_limit(limits, "Max address space"))
        yield f"{counted}_virtual_memory_max_bytes", GAUGE, f"virtual memory {text} at most", limit
        start = _boot_time() + self.stat[_START] / os.sysconf("SC_CLK_TCK")
        yield f"{counted}_start_time_seconds", GAUGE, f"start {text}, Unix time", one(start)


def read_cpu_s(pid: int) -> float:
    """Return the processor time of a process in seconds.  Raises OSError."""
    return _cpu_s(parse_stat(_read(f"/proc/{pid}/stat")))


def parse_stat(text: str) -> list[float]:
    """Return the numbers of a stat file at the positions that proc(5) gives them."""
    rest = text.rpartition(")")[2].split()
    return [0.0, 0.0, 0.0, 0.0, *(float(word) for word in rest[1:])]


def parse_status(text: str, unit: int = 1) -> dict[str, float]:
    """Return the numbers of a status file: sizes in KiB times ``unit``, context switches."""
    found = {}
    for key, value in parse_colons(text).items():
        if key.startswith(("Vm", "Rss", "Hugetlb")):
            found[key.lower()] = value * unit
        elif key.endswith("ctxt_switches"):
            found[key.lower()] = value
    return found


def parse_colons(text: str) -> dict[str, float]:
    """Return the ``Key: number`` lines of a file; the unit behind the number is dropped."""
    values = {}
    for line in text.splitlines():
        key, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            values[key] = float(words[0])
    return values


def parse_limit(text: str, name: str) -> float:
    """Return the soft limit of a limits file, as Go's client does: without one, RLIM_INFINITY."""
    for line in text.splitlines():
        if line.startswith(name):
            word = line[len(name) :].split()[0]
            return float(word) if word.isdecimal() else _RLIM_INFINITY
    return _RLIM_INFINITY


def parse_network(text: str) -> Iterator[Sample]:
    """Return the counters of each interface."""
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        for item, value in zip(_NETWORK, rest.split(), strict=False):
            yield "", (("interface", name.strip()), ("item", item)), float(value)


def read_network(pid: int | str) -> Iterator[Sample]:
    """Return the counters of the interfaces that a process sees."""
    return parse_network(_read(f"/proc/{pid}/net/dev"))


def describe_process(prefix: str, what: str, files: ProcessFiles) -> Iterator[Family]:
    """Return the families that upstream has of a process of the host, sizes in bytes."""
    yield f"{prefix}_threads", GAUGE, f"threads of the {what}", one(files.threads)
    yield f"{prefix}_fds", GAUGE, f"open descriptors of the {what}", one(files.open_fds)
    text = f"/proc/<pid>/stat of the {what}, in ticks"
    yield f"{prefix}_proc_stat", GAUGE, text, items(files.times())
    text = f"/proc/<pid>/status of the {what}, sizes in bytes"
    yield f"{prefix}_proc_status", GAUGE, text, items(parse_status(files.status, 1024))
    text = f"/proc/<pid>/io of the {what}"
    yield f"{prefix}_io_stat", GAUGE, text, items(_without_underscores(files.io))


def _cpu_s(stat: list[float]) -> float:
    return (stat[_TIMES["utime"]] + stat[_TIMES["stime"]]) / os.sysconf("SC_CLK_TCK")


def _without_underscores(values: Mapping[str, float]) -> dict[str, float]:
    return {name.replace("_", ""): value for name, value in values.items()}


def _boot_time() -> float:
    for line in _read("/proc/stat").splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _find(path: str) -> str:
    try:
        return _read(path)
    except FileNotFoundError:
        return ""


def _read(path: str) -> str:
    with open(path, errors="replace") as file:
        return file.read()
