"""The agent's statistics in the form that containerd expects of this host's cgroup version."""

from __future__ import annotations

import os

from kata.rpc.pb import agent_pb2, any_pb2, cgroups_v1_pb2, cgroups_v2_pb2


def render_stats(stats: agent_pb2.StatsContainerResponse) -> any_pb2.Any:
    """Return ``io.containerd.cgroups.v1.Metrics`` or ``v2.Metrics``, after the host's version."""
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    message = render_v2(stats) if unified else render_v1(stats)
    return any_pb2.Any(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def render_v1(stats: agent_pb2.StatsContainerResponse) -> cgroups_v1_pb2.Metrics:
    """Render for a host with cgroup v1; times are nanoseconds on both sides."""
    cgroup = stats.cgroup_stats
    metrics = cgroups_v1_pb2.Metrics()
    usage = metrics.cpu.usage
    usage.total = cgroup.cpu_stats.cpu_usage.total_usage
    usage.kernel = cgroup.cpu_stats.cpu_usage.usage_in_kernelmode
    usage.user = cgroup.cpu_stats.cpu_usage.usage_in_usermode
    throttling = cgroup.cpu_stats.throttling_data
    metrics.cpu.throttling.periods = throttling.periods
    metrics.cpu.throttling.throttled_periods = throttling.throttled_periods
    metrics.cpu.throttling.throttled_time = throttling.throttled_time
    metrics.pids.current = cgroup.pids_stats.current
    metrics.pids.limit = cgroup.pids_stats.limit
    _fill_memory_v1(metrics.memory, cgroup.memory_stats)
    for size, data in cgroup.hugetlb_stats.items():
        metrics.hugetlb.add(
            pagesize=size, usage=data.usage, max=data.max_usage, failcnt=data.failcnt
        )
    for theirs, ours in (
        (cgroup.blkio_stats.io_service_bytes_recursive, metrics.blkio.io_service_bytes_recursive),
        (cgroup.blkio_stats.io_serviced_recursive, metrics.blkio.io_serviced_recursive),
    ):
        for entry in theirs:
            ours.add(op=entry.op, major=entry.major, minor=entry.minor, value=entry.value)
    for network in stats.network_stats:
        metrics.network.add(
            name=network.name,
            rx_bytes=network.rx_bytes,
            rx_packets=network.rx_packets,
            rx_errors=network.rx_errors,
            rx_dropped=network.rx_dropped,
            tx_bytes=network.tx_bytes,
            tx_packets=network.tx_packets,
            tx_errors=network.tx_errors,
            tx_dropped=network.tx_dropped,
        )
    return metrics


def _fill_memory_v1(memory: cgroups_v1_pb2.MemoryStat, stats: agent_pb2.MemoryStats) -> None:
    detail = stats.stats
    memory.usage.usage = stats.usage.usage
    memory.usage.limit = stats.usage.limit
    memory.usage.max = stats.usage.max_usage
    memory.usage.failcnt = stats.usage.failcnt
    memory.swap.usage = stats.swap_usage.usage
    memory.swap.limit = stats.swap_usage.limit
    memory.cache = memory.total_cache = stats.cache or detail.get("file", 0)
    memory.rss = memory.total_rss = detail.get("anon", 0)
    memory.rss_huge = memory.total_rss_huge = detail.get("anon_thp", 0)
    memory.mapped_file = memory.total_mapped_file = detail.get("file_mapped", 0)
    memory.dirty = memory.total_dirty = detail.get("file_dirty", 0)
    memory.writeback = memory.total_writeback = detail.get("file_writeback", 0)
    memory.pg_fault = memory.total_pg_fault = detail.get("pgfault", 0)
    memory.pg_maj_fault = memory.total_pg_maj_fault = detail.get("pgmajfault", 0)
    for name in ("inactive_anon", "active_anon", "inactive_file", "active_file", "unevictable"):
        setattr(memory, name, detail.get(name, 0))
        setattr(memory, f"total_{name}", detail.get(name, 0))
    memory.hierarchical_memory_limit = stats.usage.limit


def render_v2(stats: agent_pb2.StatsContainerResponse) -> cgroups_v2_pb2.Metrics:
    """Render for a host with cgroup v2, which counts in microseconds."""
    cgroup = stats.cgroup_stats
    metrics = cgroups_v2_pb2.Metrics()
    cpu = cgroup.cpu_stats
    metrics.cpu.usage_usec = cpu.cpu_usage.total_usage // 1000
    metrics.cpu.user_usec = cpu.cpu_usage.usage_in_usermode // 1000
    metrics.cpu.system_usec = cpu.cpu_usage.usage_in_kernelmode // 1000
    metrics.cpu.nr_periods = cpu.throttling_data.periods
    metrics.cpu.nr_throttled = cpu.throttling_data.throttled_periods
    metrics.cpu.throttled_usec = cpu.throttling_data.throttled_time // 1000
    metrics.pids.current = cgroup.pids_stats.current
    metrics.pids.limit = cgroup.pids_stats.limit
    memory = cgroup.memory_stats
    known = metrics.memory.DESCRIPTOR.fields_by_name
    for name, value in memory.stats.items():
        if name in known:
            setattr(metrics.memory, name, value)
    metrics.memory.usage = memory.usage.usage
    metrics.memory.usage_limit = memory.usage.limit
    metrics.memory.max_usage = memory.usage.max_usage
    metrics.memory.swap_usage = memory.swap_usage.usage
    metrics.memory.swap_limit = memory.swap_usage.limit
    metrics.memory_events.oom_kill = memory.usage.failcnt
    for size, data in cgroup.hugetlb_stats.items():
        metrics.hugetlb.add(pagesize=size, current=data.usage, max=data.max_usage)
    _fill_io_v2(metrics.io, cgroup.blkio_stats)
    return metrics


def _fill_io_v2(io: cgroups_v2_pb2.IOStat, blkio: agent_pb2.BlkioStats) -> None:
    fields = {
        "read": ("rbytes", "rios"),
        "write": ("wbytes", "wios"),
    }
    entries: dict[tuple[int, int], cgroups_v2_pb2.IOEntry] = {}
    for index, rows in enumerate((blkio.io_service_bytes_recursive, blkio.io_serviced_recursive)):
        for row in rows:
            names = fields.get(row.op.lower())
            if names is None:
                continue
            key = (row.major, row.minor)
            if key not in entries:
                entries[key] = io.usage.add(major=row.major, minor=row.minor)
            setattr(entries[key], names[index], row.value)
