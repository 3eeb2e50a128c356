"""A container's statistics, from the files of its cgroup (version 2) and the guest's interfaces."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.guest import files
from kata.rpc.pb import agent_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    ReadFile = Callable[[str], str]

# How the messages say "no limit", as runc does.
UNLIMITED = (1 << 64) - 1
NETWORK_FILE = "/proc/net/dev"
_IO_KINDS = (("Read", "r"), ("Write", "w"), ("Discard", "d"))


def collect(cgroup: str) -> pb.StatsContainerResponse:
    """Collect the statistics of the container whose cgroup is the folder ``cgroup``.

    A file that the kernel does not have, or that went with the cgroup, counts as zero.  Raises
    FAILED_PRECONDITION where there is no cgroup of version 2.
    """
    if not cgroup:
        raise KataError(
            "read statistics: the container has no cgroup of version 2", Code.FAILED_PRECONDITION
        )

    def read(name: str) -> str:
        try:
            return files.find(f"{cgroup}/{name}") or ""
        except OSError:  # ENODEV: the cgroup is being removed
            return ""

    try:
        names = os.listdir(cgroup)
    except FileNotFoundError:
        names = []
    stats = pb.CgroupStats(
        cpu_stats=cpu(read("cpu.stat")),
        memory_stats=memory(read),
        pids_stats=pb.PidsStats(current=_number(read("pids.current")), limit=_pids_limit(read)),
        blkio_stats=block_io(read("io.stat")),
    )
    for size in hugepage_sizes(names):
        stats.hugetlb_stats[size].CopyFrom(hugepages(read, size))
    return pb.StatsContainerResponse(
        cgroup_stats=stats, network_stats=network(files.find(NETWORK_FILE) or "")
    )


def cpu(text: str) -> pb.CpuStats:
    """Parse cpu.stat; the message's times are nanoseconds."""
    values = parse_flat(text)
    usage = pb.CpuUsage(
        total_usage=values.get("usage_usec", 0) * 1000,
        usage_in_kernelmode=values.get("system_usec", 0) * 1000,
        usage_in_usermode=values.get("user_usec", 0) * 1000,
    )
    throttling = pb.ThrottlingData(
        periods=values.get("nr_periods", 0),
        throttled_periods=values.get("nr_throttled", 0),
        throttled_time=values.get("throttled_usec", 0) * 1000,
    )
    return pb.CpuStats(cpu_usage=usage, throttling_data=throttling)


def memory(read: ReadFile) -> pb.MemoryStats:
    """Read the memory.* files."""
    values = parse_flat(read("memory.stat"))
    events = parse_flat(read("memory.events"))
    swap_events = parse_flat(read("memory.swap.events"))
    return pb.MemoryStats(
        cache=values.get("file", 0),
        usage=pb.MemoryData(
            usage=_number(read("memory.current")),
            max_usage=_number(read("memory.peak")),
            failcnt=events.get("max", 0),
            limit=_limit(read("memory.max")),
        ),
        swap_usage=pb.MemoryData(
            usage=_number(read("memory.swap.current")),
            failcnt=swap_events.get("max", 0),
            limit=_limit(read("memory.swap.max")),
        ),
        kernel_usage=pb.MemoryData(usage=values.get("kernel", 0)),
        use_hierarchy=True,
        stats=values,
    )


def block_io(text: str) -> pb.BlkioStats:
    """Parse io.stat: a line for each device, ``8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...``."""
    stats = pb.BlkioStats()
    for line in text.splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        for target, suffix in (
            (stats.io_service_bytes_recursive, "bytes"),
            (stats.io_serviced_recursive, "ios"),
        ):
            for operation, letter in _IO_KINDS:
                target.add(
                    major=int(major),
                    minor=int(minor),
                    op=operation,
                    value=values.get(letter + suffix, 0),
                )
    return stats


def hugepage_sizes(names: list[str]) -> Iterator[str]:
    """Return the page sizes (``2MB``) that the files of a cgroup tell of."""
    for name in names:
        head, _, rest = name.partition(".")
        size, _, tail = rest.partition(".")
        if head == "hugetlb" and tail == "current":
            yield size


def hugepages(read: ReadFile, size: str) -> pb.HugetlbStats:
    """Read the hugetlb files of one page size."""
    return pb.HugetlbStats(
        usage=_number(read(f"hugetlb.{size}.current")),
        failcnt=parse_flat(read(f"hugetlb.{size}.events")).get("max", 0),
    )


def network(text: str) -> list[pb.NetworkStats]:
    """Parse /proc/net/dev."""
    found = []
    for line in text.splitlines()[2:]:
        name, _, rest = line.partition(":")
        columns = [int(column) for column in rest.split()]
        found.append(
            pb.NetworkStats(
                name=name.strip(),
                rx_bytes=columns[0],
                rx_packets=columns[1],
                rx_errors=columns[2],
                rx_dropped=columns[3],
                tx_bytes=columns[8],
                tx_packets=columns[9],
                tx_errors=columns[10],
                tx_dropped=columns[11],
            )
        )
    return found


def parse_flat(text: str) -> dict[str, int]:
    """Parse the "flat keyed" format of cgroup files: ``key number`` a line."""
    values = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if value.isdecimal():
            values[key] = int(value)
    return values


def _pids_limit(read: ReadFile) -> int:
    """Return the limit; no limit is 0 in this message, as runc has it."""
    return _number(read("pids.max"))


def _limit(text: str) -> int:
    return UNLIMITED if text.strip() == "max" else _number(text)


def _number(text: str) -> int:
    stripped = text.strip()
    return int(stripped) if stripped.isdecimal() else 0
