"""The rest of the Task service: pause, kill, limits, statistics, events, restarts of containerd."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.rpc.client import Client, RpcError
from kata.rpc.pb import any_pb2, empty_pb2, task_pb2
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.ids import make_id

pytestmark = pytest.mark.e2e

COUNT = "while true; do echo x >> /tmp/i; sleep 0.02; done"


def counter(containerd: Containerd, name: str) -> int:
    return int(containerd.exec(name, "stat", "-c", "%s", "/tmp/i").stdout)


def kill_code(client: Client, name: str, exec_id: str = "") -> int:
    request = task_pb2.KillRequest(id=name, exec_id=exec_id, signal=signal.SIGKILL)
    with pytest.raises(RpcError) as caught:
        client.call("containerd.task.v2.Task/Kill", request, empty_pb2.Empty, 10)
    return caught.value.code


def test_pause_stops_the_loop_and_resume_continues_it(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sh", "-c", COUNT)
    time.sleep(0.5)
    containerd.ctr("task", "pause", name)
    assert containerd.status(name) == "PAUSED"
    refused = containerd.exec(name, "true", check=False)
    assert b"paused" in refused.stderr
    cpu = cpu_usage(containerd, name)
    time.sleep(1.0)
    assert cpu_usage(containerd, name) == cpu
    containerd.ctr("task", "resume", name)
    assert containerd.status(name) == "RUNNING"
    first = counter(containerd, name)
    time.sleep(0.5)
    assert counter(containerd, name) > first


def metrics(containerd: Containerd, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(
        containerd.ctr("task", "metrics", "--format", "json", name).stdout
    )
    return found


def cpu_usage(containerd: Containerd, name: str) -> int:
    cpu = metrics(containerd, name)["cpu"]
    assert isinstance(cpu, dict)
    usage = cpu.get("usage") or {"total": cpu.get("usage_usec", 0) * 1000}
    return int(usage["total"])


def test_stats_agree_with_a_load_of_known_size(containerd: Containerd, name: str) -> None:
    # 48 MiB in a tmpfs are charged to the container; a busy loop takes one processor.
    script = "dd if=/dev/zero of=/run/load bs=1M count=48 2>/dev/null; while true; do :; done"
    containerd.start_container(name, "sh", "-c", script, flags=["--memory-limit", "201326592"])
    deadline = time.monotonic() + 60
    while containerd.exec(name, "stat", "-c", "%s", "/run/load").stdout != b"50331648\n":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    memory = metrics(containerd, name)["memory"]
    assert isinstance(memory, dict)
    usage = memory["usage"]
    used, limit = usage["usage"], usage["limit"]
    assert 48 << 20 <= used <= 64 << 20
    assert limit == 201326592
    before, started = cpu_usage(containerd, name), time.monotonic()
    time.sleep(3)
    share = (cpu_usage(containerd, name) - before) / (time.monotonic() - started) / 1e9
    assert 0.5 < share < 1.1


def test_user_and_system_time_are_told_apart(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sh", "-c", "while true; do :; done")
    time.sleep(2)
    cpu = metrics(containerd, name)["cpu"]
    assert isinstance(cpu, dict)
    assert cpu["usage"]["user"] > cpu["usage"]["kernel"]


def test_update_reaches_the_guests_cgroup(containerd: Containerd, name: str) -> None:
    mount = "type=cgroup,src=cgroup,dst=/sys/fs/cgroup,options=ro"
    flags = ["--memory-limit", "100000000", "--mount", mount]
    containerd.start_container(name, "sleep", "1000", flags=flags)
    show = ["sh", "-c", "cd /sys/fs/cgroup && cat memory.max cpu.max"]
    assert containerd.exec(name, *show).stdout == b"99999744\nmax 100000\n"
    client = containerd.shim(name)
    resources = any_pb2.Any(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value=json.dumps(
            {"memory": {"limit": 67108864}, "cpu": {"quota": 50000, "period": 100000}}
        ).encode(),
    )
    request = task_pb2.UpdateTaskRequest(id=name, resources=resources)
    client.call("containerd.task.v2.Task/Update", request, empty_pb2.Empty, 20)
    client.close()
    assert containerd.exec(name, *show).stdout == b"67108864\n50000 100000\n"


def test_signal_is_handled_by_the_container(containerd: Containerd, name: str) -> None:
    containerd.start_container(
        name, "sh", "-c", "trap 'exit 9' TERM; while true; do sleep 0.1; done"
    )
    time.sleep(0.5)
    containerd.ctr("task", "kill", name)
    containerd.wait_status(name, "STOPPED")
    done = containerd.ctr("task", "delete", name, check=False)
    assert b"exit code 9" in done.stderr


def test_kill_reaches_a_whole_process_group(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sh", "-c", "sleep 1000 & sleep 1001 & wait")
    containerd.ctr("task", "kill", "--all", "-s", "KILL", name)
    containerd.wait_status(name, "STOPPED")


def test_exec_is_killed_alone(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sleep", "1000")
    command = containerd.command("task", "exec", "--exec-id", "victim", name, "sleep", "500")
    with subprocess.Popen(command) as running:
        while b"sleep 500" not in containerd.exec(name, "ps").stdout:
            time.sleep(0.1)
        containerd.ctr("task", "kill", "--exec-id", "victim", "-s", "KILL", name)
        assert running.wait(20) == 137
    assert containerd.status(name) == "RUNNING"


def test_error_codes_of_the_service(containerd: Containerd, shared_name: str) -> None:
    client = containerd.shim(shared_name)
    assert kill_code(client, "nobody") == Code.NOT_FOUND
    assert kill_code(client, shared_name, "nobody") == Code.NOT_FOUND
    with pytest.raises(RpcError) as caught:
        client.call(
            "containerd.task.v2.Task/Checkpoint",
            task_pb2.CheckpointTaskRequest(id=shared_name),
            empty_pb2.Empty,
            10,
        )
    assert caught.value.code == Code.UNIMPLEMENTED
    for service in ("containerd.task.v2.Task", "containerd.task.v3.Task"):
        state = client.call(
            f"{service}/State",
            task_pb2.StateRequest(id=shared_name),
            task_pb2.StateResponse,
            10,
        )
        assert state.id == shared_name
    client.close()


def test_exec_keeps_capabilities_and_limits(containerd: Containerd, shared_name: str) -> None:
    script = "grep -E 'CapBnd|NoNewPrivs' /proc/self/status; ulimit -n"
    init = containerd.exec(shared_name, "grep", "CapBnd", "/proc/1/status").stdout.split()[1]
    shown = containerd.exec(shared_name, "sh", "-c", script).stdout.decode().split()
    assert shown[1].encode() == init
    assert shown[3] == "1"
    assert shown[4] == "1024"


def test_events_come_in_order(containerd: Containerd, name: str) -> None:
    with subprocess.Popen(
        containerd.command("events"), stdout=subprocess.PIPE, text=True
    ) as watching:
        time.sleep(0.5)
        containerd.start_container(name, "sleep", "1000")
        containerd.exec(name, "true")
        containerd.ctr("task", "pause", name)
        containerd.ctr("task", "resume", name)
        containerd.remove(name)
        time.sleep(1.0)
        watching.terminate()
        output, _ = watching.communicate()
    topics = [
        match[1] for line in output.splitlines() if name in line
        and (match := re.search(r" /tasks/(\S+)", line))
    ]  # fmt: skip
    assert topics == [
        "create", "start", "exec-added", "exec-started", "exit",
        "paused", "resumed", "exit", "delete",
    ]  # fmt: skip


def test_running_out_of_memory_is_told(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sleep", "1000", flags=["--memory-limit", "33554432"])
    with subprocess.Popen(
        containerd.command("events"), stdout=subprocess.PIPE, text=True
    ) as watching:
        time.sleep(0.5)
        done = containerd.exec(name, "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", check=False)
        time.sleep(1.0)
        watching.terminate()
        output, _ = watching.communicate()
    assert done.returncode == 137
    assert any("/tasks/oom" in line and name in line for line in output.splitlines())
    assert containerd.status(name) == "RUNNING"


def test_containerd_restarts_while_a_container_runs(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sh", "-c", "sleep 2; exit 3")
    other = make_id("other")
    containerd.start_container(other, "sleep", "1000")
    containerd.stop(signal.SIGKILL)
    time.sleep(3)  # the first container ends while nobody listens
    containerd.start()
    try:
        assert containerd.status(name) == "STOPPED"
        done = containerd.ctr("task", "delete", name, check=False)
        assert b"exit code 3" in done.stderr
        assert containerd.exec(other, "echo", "alive").stdout == b"alive\n"
    finally:
        containerd.remove(other)


def test_requests_are_answered_while_create_runs(containerd: Containerd, name: str) -> None:
    command = containerd.command("run", "--runtime", RUNTIME, "--rm", IMAGE, name, "true")
    with subprocess.Popen(command) as running:
        address = containerd.bundle(name) / "address"
        while not address.exists():
            assert running.poll() is None
            time.sleep(0.01)
        client = containerd.shim(name)
        while not Path("/run/kata", name, "record.json").exists():
            assert running.poll() is None
            time.sleep(0.01)
        connect = task_pb2.ConnectRequest(id=name)
        answer = client.call(
            "containerd.task.v2.Task/Connect", connect, task_pb2.ConnectResponse, 2
        )
        with pytest.raises(RpcError) as caught:
            client.call(
                "containerd.task.v2.Task/State",
                task_pb2.StateRequest(id=name),
                task_pb2.StateResponse,
                2,
            )
        assert running.poll() is None
        client.close()
        assert running.wait(60) == 0
    assert answer.shim_pid > 0
    assert caught.value.code == Code.NOT_FOUND
