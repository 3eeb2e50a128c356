"""kata-monitor with real sandboxes and a real Prometheus.  Other tests' sandboxes may be there."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from urllib.error import HTTPError

import pytest

from tests.support.containerd import Containerd
from tests.support.prometheus import MonitorProgram, Prometheus, check_metrics, wait_until
from tests.support.sandboxes import SHIM, assert_gone, kill, wait_for

pytestmark = pytest.mark.e2e

# What the documentation of upstream's 2.0 metrics lists and this machine can have.
FAMILIES = (
    "kata_agent_io_stat", "kata_agent_proc_stat", "kata_agent_proc_status", "kata_agent_threads",
    "kata_agent_total_rss", "kata_agent_total_time", "kata_agent_total_vm",
    "kata_guest_cpu_time", "kata_guest_load", "kata_guest_meminfo", "kata_guest_netdev_stat",
    "kata_guest_tasks", "kata_guest_vm_stat",
    "kata_hypervisor_fds", "kata_hypervisor_io_stat", "kata_hypervisor_proc_stat",
    "kata_hypervisor_proc_status", "kata_hypervisor_threads",
    "kata_shim_fds", "kata_shim_io_stat", "kata_shim_pod_overhead_cpu",
    "kata_shim_pod_overhead_memory_in_bytes", "kata_shim_proc_stat", "kata_shim_proc_status",
    "kata_shim_rpc_durations_histogram_milliseconds",
    "kata_shim_agent_rpc_durations_histogram_milliseconds", "kata_shim_threads",
    "kata_virtiofsd_fds", "kata_virtiofsd_threads",
)  # fmt: skip


@pytest.fixture(scope="module")
def monitor() -> Iterator[MonitorProgram]:
    program = MonitorProgram()
    yield program
    program.stop()


@pytest.fixture(scope="module")
def prometheus(
    monitor: MonitorProgram, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), monitor.port)
    yield server
    server.stop()


def test_a_sandbox_has_all_families(
    containerd: Containerd, shared_name: str, monitor: MonitorProgram
) -> None:
    containerd.exec(shared_name, "true")
    wait_until(lambda: shared_name in monitor.list_sandboxes())
    text = monitor.get(f"/metrics?sandbox={shared_name}")
    assert set(FAMILIES) <= set(re.findall(r"(?m)^# TYPE (\S+)", text))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    assert len(samples) > 300
    own = f'sandbox_id="{shared_name}",cri_uid="",cri_name="",cri_namespace=""}} '
    assert all(own in line for line in samples)


def test_promtool_has_nothing_to_say_but_of_upstreams_names(
    shared_name: str, monitor: MonitorProgram
) -> None:
    wait_until(lambda: shared_name in monitor.list_sandboxes())
    known = re.compile(
        r'counter metrics should have "_total" suffix'
        r'|should not have "_count" suffix'
        r"|metric name should not include type 'histogram'"
        r'|use base unit "seconds" instead of "milliseconds"'
    )
    remarks = check_metrics(monitor.get("/metrics")).splitlines()
    assert [line for line in remarks if not known.search(line)] == []


def test_sandboxes_appear_and_go(
    containerd: Containerd, name: str, monitor: MonitorProgram, prometheus: Prometheus
) -> None:
    series = f'kata_guest_load{{sandbox_id="{name}", item="load1"}}'
    containerd.start_container(name, "sleep", "1000")
    prometheus.wait_for(series)
    ((labels, value),) = prometheus.query(f'kata_shim_threads{{sandbox_id="{name}"}}')
    assert labels["job"] == "kata"
    assert value > 0
    containerd.remove(name)
    prometheus.wait_for_none(series)
    assert name not in monitor.list_sandboxes()


def test_a_monitor_that_starts_anew_finds_those_that_run(
    containerd: Containerd, name: str, monitor: MonitorProgram, prometheus: Prometheus
) -> None:
    series = f'kata_shim_threads{{sandbox_id="{name}"}}'
    containerd.start_container(name, "sleep", "1000")
    prometheus.wait_for(series)
    monitor.stop()
    prometheus.wait_for_none(series)
    monitor.start()
    prometheus.wait_for(series)


def test_overhead_is_never_negative(
    containerd: Containerd, name: str, prometheus: Prometheus
) -> None:
    """Upstream's is, when a container uses memory or processors."""
    load = "dd if=/dev/zero of=/run/load bs=1M count=64 2>/dev/null; while true; do :; done"
    containerd.start_container(name, "sh", "-c", load)
    own = f'sandbox_id="{name}"'
    prometheus.wait_for(f"count_over_time(kata_shim_pod_overhead_cpu{{{own}}}[1m]) >= 5")
    for family in ("kata_shim_pod_overhead_cpu", "kata_shim_pod_overhead_memory_in_bytes"):
        ((_, least),) = prometheus.query(f"min_over_time({family}{{{own}}}[5m])")
        assert least >= 0
    ((_, memory),) = prometheus.query(f"kata_shim_pod_overhead_memory_in_bytes{{{own}}}")
    assert memory > 1 << 20
    busy = f'rate(kata_guest_cpu_time{{{own}, cpu="total", item="user"}}[1m]) > 0'
    prometheus.wait_for(busy)


def test_a_shim_that_hangs_is_missed_alone(
    containerd: Containerd, name: str, shared_name: str, monitor: MonitorProgram
) -> None:
    containerd.start_container(name, "sleep", "1000")
    wait_until(lambda: {name, shared_name} <= set(monitor.list_sandboxes()))
    before = monitor.count_failures()
    pid = wait_for(name, SHIM)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        text = monitor.get("/metrics")
        assert time.monotonic() - began < 30.0
        assert f'kata_shim_threads{{sandbox_id="{shared_name}"' in text
        assert f'sandbox_id="{name}"' not in text
        assert monitor.count_failures() > before
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: f'sandbox_id="{name}"' in monitor.get("/metrics"))


def test_a_shim_that_is_killed_is_gone_with_its_sandbox(
    containerd: Containerd, name: str, monitor: MonitorProgram, prometheus: Prometheus
) -> None:
    series = f'kata_shim_threads{{sandbox_id="{name}"}}'
    containerd.start_container(name, "sleep", "1000")
    prometheus.wait_for(series)
    kill(name, SHIM)
    wait_until(lambda: name not in monitor.list_sandboxes())
    prometheus.wait_for_none(series)
    containerd.remove(name)
    assert_gone(name, containerd.address)


def test_a_sandbox_of_the_same_name_again(
    containerd: Containerd, name: str, prometheus: Prometheus
) -> None:
    started = f'kata_shim_process_start_time_seconds{{sandbox_id="{name}"}}'
    containerd.start_container(name, "sleep", "1000")
    ((_, first),) = prometheus.wait_for(started)
    containerd.remove(name)
    containerd.start_container(name, "sleep", "1000")
    prometheus.wait_for(f"{started} > {first!r}")


def test_agents_address_or_the_reason_why_there_is_none(
    shared_name: str, monitor: MonitorProgram
) -> None:
    wait_until(lambda: shared_name in monitor.list_sandboxes())
    try:
        text = monitor.get(f"/agent-url?sandbox={shared_name}")
    except HTTPError as error:
        text = error.read().decode()
    assert text.startswith("vsock://") or "virtio-serial" in text


def test_nothing_is_written_where_sandboxes_are() -> None:
    before = set(os.listdir("/run/kata")) if os.path.isdir("/run/kata") else set()
    program = MonitorProgram()
    program.get("/metrics")
    program.stop()
    new = set(os.listdir("/run/kata")) - before if os.path.isdir("/run/kata") else set()
    assert not any("monitor" in entry for entry in new)
