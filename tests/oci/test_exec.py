"""Processes beside a container's own, and its limits and statistics, by the OCI verbs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.leaks import find_processes
from tests.support.runtime import Bundle, Runtime, is_alive, read_file, wait_until

pytestmark = pytest.mark.e2e


def test_streams_and_exit_statuses(shared_runtime: Runtime, shared: str) -> None:
    done = shared_runtime.call(
        "exec", shared, "sh", "-c", "cat; echo err >&2; exit 9", check=False, input="given\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (9, "given\n", "err\n")


def test_flags(shared_runtime: Runtime, shared: str) -> None:
    flags = ("--cwd", "/tmp", "-e", "A=1", "--env", "B=x=y", "-u", "7:8", "-g", "9", "-g", "10")
    script = "pwd; echo $A $B; id -u; id -G; grep NoNewPrivs /proc/self/status"
    done = shared_runtime.call("exec", *flags, "--no-new-privs", shared, "sh", "-c", script)
    assert done.stdout.split() == ["/tmp", "1", "x=y", "7", "8", "9", "10", "NoNewPrivs:", "1"]


def test_capabilities_are_added(shared_runtime: Runtime, shared: str) -> None:
    show = ("grep", "CapEff", "/proc/self/status")
    plain = int(shared_runtime.call("exec", shared, *show).stdout.split()[1], 16)
    more = shared_runtime.call("exec", "--cap", "CAP_SYS_TIME", shared, *show)
    assert int(more.stdout.split()[1], 16) == plain | 1 << 25


def test_a_process_from_a_file(shared_runtime: Runtime, shared: str, tmp_path: Path) -> None:
    file = tmp_path / "process.json"
    user = {"uid": 5, "gid": 6}
    document = {"args": ["/bin/sh", "-c", "id -u; pwd"], "cwd": "/root", "user": user, "env": []}
    file.write_text(json.dumps({**document, "user": {"uid": 0, "gid": 6}}))
    assert shared_runtime.call("exec", "-p", str(file), shared).stdout.split() == ["0", "/root"]
    for text, error in (("{", "invalid JSON"), ("{}", "process args cannot be empty")):
        file.write_text(text)
        done = shared_runtime.call("exec", "-p", str(file), shared, check=False)
        assert (done.returncode, error in done.stderr) == (255, True)
    done = shared_runtime.call("exec", "-p", "/nonexistent", shared, check=False)
    assert (done.returncode, "open /nonexistent: No such file" in done.stderr) == (255, True)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("nope",), "executable file not found in $PATH"),
        (("/etc/passwd",), "ermission denied"),
        ((), "process args cannot be empty"),
    ],
)
def test_what_cannot_run_is_255_with_its_reason(
    shared_runtime: Runtime, shared: str, words: tuple[str, ...], text: str
) -> None:
    done = shared_runtime.call("exec", shared, *words, check=False)
    assert (done.returncode, text in done.stderr) == (255, True), done


def test_detached_with_a_pid_file(shared_runtime: Runtime, shared: str, tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as output:
        subprocess.run(
            shared_runtime.argv(
                "exec", "-d", "--pid-file", f"{tmp_path}/pid", shared, "sh", "-c", "echo up; cat"
            ),
            stdin=subprocess.PIPE,
            stdout=output,
            check=True,
        )
    read_file(tmp_path / "out", "up")
    # Its input ended with the parent.
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_alive(pid))


def test_signals_to_the_foreground_and_to_the_stand_in(
    shared_runtime: Runtime, shared: str, tmp_path: Path
) -> None:
    script = "trap 'echo int; exit 4' INT; echo up; while :; do sleep 0.1; done"
    with open(tmp_path / "out", "wb") as output:
        process = subprocess.Popen(
            shared_runtime.argv("exec", shared, "sh", "-c", script), stdout=output
        )
    read_file(tmp_path / "out", "up")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 4
    assert (tmp_path / "out").read_text() == "up\nint\n"


def test_execs_that_fail_leave_nothing_in_the_shim(shared_runtime: Runtime, shared: str) -> None:
    (shim,) = [line for line in find_processes(shared) if line.endswith("containerd-shim-kata-v2")]
    descriptors = Path(f"/proc/{shim.split()[0]}/fd")

    def fail() -> None:
        done = shared_runtime.call("exec", shared, "no-such-program", check=False)
        assert done.returncode == 255

    fail()
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        fail()
    wait_until(lambda: len(list(descriptors.iterdir())) <= before)


def test_a_killed_stand_in_ends_its_process(
    shared_runtime: Runtime, shared: str, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    shared_runtime.call(
        *("exec", "-d", "--pid-file", str(pid_file), shared, "sleep", "4711"),
        capture_output=False,
        stdout=subprocess.DEVNULL,
    )
    assert "sleep 4711" in shared_runtime.call("ps", shared).stdout
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    wait_until(lambda: "sleep 4711" not in shared_runtime.call("ps", shared).stdout)


def test_ps(shared_runtime: Runtime, shared: str) -> None:
    assert "sleep 100000" in shared_runtime.call("ps", shared).stdout
    assert shared_runtime.call("ps", shared, "-o", "pid").stdout.split()[:2] == ["PID", "1"]
    found = json.loads(shared_runtime.call("ps", "-f", "json", shared).stdout)
    assert found == [shared_runtime.pid(shared)]


def test_events(shared_runtime: Runtime, shared: str) -> None:
    entry = json.loads(shared_runtime.call("events", "--stats", shared).stdout)
    assert (entry["type"], entry["id"]) == ("stats", shared)
    assert entry["data"]["memory"]["usage"]["usage"] > 0
    assert entry["data"]["cpu"]["usage"]["total"] > 0
    assert entry["data"]["pids"]["current"] >= 1
    process = subprocess.Popen(
        shared_runtime.argv("events", "--interval", "50ms", shared),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for _ in range(3):
        assert json.loads(process.stdout.readline())["id"] == shared
    process.kill()
    process.wait()
    process.stdout.close()
    done = shared_runtime.call("events", "--interval", "0s", shared, check=False)
    assert (done.returncode, "must be greater than 0" in done.stderr) == (1, True)


def test_logs_of_all_parts(shared_runtime: Runtime, shared: str) -> None:
    lines = shared_runtime.call("logs", shared).stdout.splitlines()
    assert {"agent", "shim"} <= {line.split()[0] for line in lines}
    times = [line.split('time="')[1].split('"')[0] for line in lines if 'time="' in line]
    assert times == sorted(times)


def test_update(runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path) -> None:
    runtime.create(bundle.run("sleep", "1000"), name)
    runtime.call("start", name)
    groups = "/sys/fs/cgroup"
    runtime.call("update", "--memory", "67108864", "--pids-limit", "20", name)
    shown = runtime.call("exec", name, "cat", f"{groups}/memory.max", f"{groups}/pids.max")
    assert shown.stdout.split() == ["67108864", "20"]
    limits = json.dumps({"memory": {"limit": 33554432}, "cpu": {"quota": 50000, "period": 100000}})
    runtime.call("update", "-r", "-", name, input=limits)
    shown = runtime.call("exec", name, "cat", f"{groups}/memory.max", f"{groups}/cpu.max")
    assert shown.stdout.split() == ["33554432", "50000", "100000"]
    (tmp_path / "r.json").write_text("[]")
    done = runtime.call("update", "-r", f"{tmp_path}/r.json", name, check=False)
    assert (done.returncode, "no JSON object" in done.stderr) == (1, True)
    done = runtime.call("update", "--memory", "many", name, check=False)
    assert (done.returncode, 'invalid value \\"many\\"' in done.stderr) == (1, True)


def test_an_exec_of_a_container_that_was_not_started(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    runtime.create(bundle.run("true"), name)
    done = runtime.call("exec", name, "true", check=False)
    assert (done.returncode, "has not been started" in done.stderr) == (255, True)
