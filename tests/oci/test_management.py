"""What a running sandbox answers to operators' programs."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket

from tests.support.runtime import Runtime, wait_until
from tests.support.sandboxes import QEMU, find_pids

# Upstream's list (docs/design/kata-2-0-metrics.md) without what is Go's.
PROCESS = ("threads", "fds", "proc_stat", "proc_status", "io_stat")
FAMILIES = {
    *(f"kata_{part}_{name}" for part in ("shim", "hypervisor", "virtiofsd") for name in PROCESS),
    *(f"kata_agent_{name}" for name in ("io_stat", "proc_stat", "proc_status", "scrape_count")),
    *(f"kata_agent_total_{name}" for name in ("rss", "time", "vm")),
    *(
        f"kata_{part}_process_{name}"
        for part in ("shim", "agent")
        for name in (
            "cpu_seconds_total",
            "max_fds",
            "open_fds",
            "resident_memory_bytes",
            "start_time_seconds",
            "virtual_memory_bytes",
        )
    ),
    *(
        f"kata_guest_{name}"
        for name in ("cpu_time", "load", "meminfo", "netdev_stat", "tasks", "vm_stat")
    ),
    "kata_shim_agent_rpc_durations_histogram_milliseconds",
    "kata_shim_rpc_durations_histogram_milliseconds",
    "kata_shim_pod_overhead_cpu",
    "kata_shim_pod_overhead_memory_in_bytes",
}


def ask(name: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Ask as any HTTP client can; returns the status and the body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(60)
        sock.connect(f"/run/kata/{name}/shim-monitor.sock")
        sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: shim\r\n\r\n".encode())
        answer = http.client.HTTPResponse(sock, method=method)
        answer.begin()
        return answer.status, answer.read().decode()


def read_samples(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def read_whole(runtime: Runtime, name: str) -> str:
    """Return the metrics once the guest's are among them: it may be slow, on a busy host."""
    texts: list[str] = []

    def is_whole() -> bool:
        texts.append(runtime.call("metrics", name).stdout)
        return "kata_guest_diskstat" in texts[-1] or "kata_guest_netdev_stat" in texts[-1]

    wait_until(is_whole, 60)
    return texts[-1]


def test_metrics(runtime: Runtime, shared: str) -> None:
    text = read_whole(runtime, shared)
    named = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert named >= FAMILIES
    samples = read_samples(text)
    assert all(value >= 0 for value in samples.values())
    # The shim and QEMU alone take that much; the guest's memory is 256 MiB and more.
    assert 20 << 20 < samples["kata_shim_pod_overhead_memory_in_bytes"] < 2 << 30
    calls = 'kata_shim_rpc_durations_histogram_milliseconds_count{action="create"}'
    assert samples[calls] == 1
    made = "kata_shim_agent_rpc_durations_histogram_milliseconds_count"
    assert samples[f'{made}{{action="grpc.CreateContainerRequest"}}'] == 1
    again = read_samples(read_whole(runtime, shared[:-1]))  # the start of an id will do
    assert again["kata_agent_scrape_count"] > samples["kata_agent_scrape_count"]


def test_a_sandbox_that_does_not_run(runtime: Runtime) -> None:
    refused = runtime.call("metrics", "no-such", check=False)
    assert refused.returncode == 1
    assert "find sandbox no-such: no such sandbox runs" in refused.stderr
    assert runtime.call("metrics", check=False).returncode == 1


def test_other_paths(runtime: Runtime, shared: str) -> None:
    status, text = ask(shared, "/sandbox")
    assert status == 200
    pod = {"cri_uid": "", "cri_name": "", "cri_namespace": ""}
    assert json.loads(text) == {"id": shared, **pod}
    status, text = ask(shared, "/agent-url")
    if os.path.exists("/dev/vhost-vsock"):
        assert (text[:8], status) == ("vsock://", 200)
    else:
        assert "virtio-serial" in text
        assert status == 501
    assert ask(shared, "/nothing")[0] == 404
    assert ask(shared, "/metrics", "DELETE")[0] == 405


def test_a_machine_that_hangs(runtime: Runtime, shared: str) -> None:
    """What the host knows is told without it."""
    (pid,) = find_pids(shared, QEMU)
    os.kill(pid, signal.SIGSTOP)
    try:
        text = runtime.call("metrics", shared).stdout
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "kata_hypervisor_threads " in text
    assert "kata_shim_fds " in text
    assert "kata_guest" not in text
    assert "kata_shim_pod_overhead" not in text  # which would be too much, without the guest's part
    assert "kata_guest_load" in read_whole(runtime, shared)
