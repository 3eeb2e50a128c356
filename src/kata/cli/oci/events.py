"""kata-runtime events: a container's use of resources, as JSON lines in runc's form."""

from __future__ import annotations

import time

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json
from kata.cli.oci.record import load_record
from kata.cli.oci.task import Task
from kata.rpc.pb import cgroups_v1_pb2, cgroups_v2_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb
    from kata.rpc.pb import any_pb2

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_MICRO = 1000


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print one line, or one in each interval until the container has ended."""
    interval_s = parse_duration(options.text("interval"))
    record = load_record(settings.root, options.words[0])
    if record.status in ("stopped", "creating"):
        raise KataError(f"container with id {record.id} is not running", Code.FAILED_PRECONDITION)
    with Task(settings.root, record.sandbox, record.id) as task:
        _print(record, task)
        while not options.has("stats"):
            time.sleep(interval_s)
            if record.status == "stopped":
                break
            _print(record, task)
    return 0


def parse_duration(text: str) -> float:
    """Return seconds.  Raises INVALID_ARGUMENT for what is no positive duration."""
    number = text.rstrip("hms")
    unit = text.removeprefix(number)
    try:
        seconds = float(number) * _UNITS_S[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not seconds > 0:
        raise KataError(f"duration interval must be greater than 0, not {text}", Code.OUT_OF_RANGE)
    return seconds


def _print(record: Record, task: Task) -> None:
    data = render_stats(task.stats())
    print(render_json({"type": "stats", "id": record.id, "data": data}), flush=True)


def render_stats(stats: any_pb2.Any) -> dict[str, Any]:
    """Return runc's form of either version of containerd's metrics."""
    if stats.type_url.endswith(".v2.Metrics"):
        return _render_v2(cgroups_v2_pb2.Metrics.FromString(stats.value))
    return _render_v1(cgroups_v1_pb2.Metrics.FromString(stats.value))


def _render_v1(metrics: cgroups_v1_pb2.Metrics) -> dict[str, Any]:
    cpu, memory = metrics.cpu, metrics.memory
    return {
        "cpu": {
            "usage": {
                "total": cpu.usage.total,
                "percpu": list(cpu.usage.per_cpu),
                "kernel": cpu.usage.kernel,
                "user": cpu.usage.user,
            },
            "throttling": {
                "periods": cpu.throttling.periods,
                "throttledPeriods": cpu.throttling.throttled_periods,
                "throttledTime": cpu.throttling.throttled_time,
            },
        },
        "memory": {
            "cache": memory.cache,
            "usage": _render_usage(memory.usage),
            "swap": _render_usage(memory.swap),
            "kernel": _render_usage(memory.kernel),
            "kernelTCP": _render_usage(memory.kernel_tcp),
        },
        "pids": {"current": metrics.pids.current, "limit": metrics.pids.limit},
        "blkio": {
            "ioServiceBytesRecursive": _render_io(metrics.blkio.io_service_bytes_recursive),
            "ioServicedRecursive": _render_io(metrics.blkio.io_serviced_recursive),
        },
        "hugetlb": {
            entry.pagesize: {"usage": entry.usage, "max": entry.max, "failcnt": entry.failcnt}
            for entry in metrics.hugetlb
        },
        "intel_rdt": {},
        "network_interfaces": [_render_link(link) for link in metrics.network] or None,
    }


def _render_v2(metrics: cgroups_v2_pb2.Metrics) -> dict[str, Any]:
    cpu, memory = metrics.cpu, metrics.memory
    swap = {"usage": memory.swap_usage, "limit": memory.swap_limit, "failcnt": 0}
    return {
        "cpu": {
            "usage": {
                "total": cpu.usage_usec * _MICRO,
                "kernel": cpu.system_usec * _MICRO,
                "user": cpu.user_usec * _MICRO,
            },
            "throttling": {
                "periods": cpu.nr_periods,
                "throttledPeriods": cpu.nr_throttled,
                "throttledTime": cpu.throttled_usec * _MICRO,
            },
        },
        "memory": {
            "cache": memory.file,
            "usage": {"usage": memory.usage, "limit": memory.usage_limit, "failcnt": 0},
            "swap": swap,
        },
        "pids": {"current": metrics.pids.current, "limit": metrics.pids.limit},
        "blkio": {},
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def _render_usage(entry: cgroups_v1_pb2.MemoryEntry) -> dict[str, int]:
    return {
        "limit": entry.limit,
        "usage": entry.usage,
        "max": entry.max,
        "failcnt": entry.failcnt,
    }


def _render_io(entries: Any) -> list[dict[str, Any]]:
    return [
        {"op": entry.op, "major": entry.major, "minor": entry.minor, "value": entry.value}
        for entry in entries
    ]


def _render_link(link: cgroups_v1_pb2.NetworkStat) -> dict[str, Any]:
    kinds = ("bytes", "packets", "errors", "dropped")
    counts = {
        f"{way}_{kind}": getattr(link, f"{way.lower()}_{kind}")
        for way in ("Rx", "Tx")
        for kind in kinds
    }
    return {"Name": link.name, **counts}
