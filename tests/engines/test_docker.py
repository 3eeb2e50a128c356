"""Docker with kata-runtime as its runtime: containers, networks, volumes, restarts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import IMAGE, Dockerd, Engine, find_pid, list_sandboxes
from tests.engines.test_podman import SERVE, TRAP, fetch
from tests.support.runtime import is_alive, wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def box(docker: Engine) -> Iterator[str]:
    """A container's name; it is gone after the test, and its machine."""
    before = set(list_sandboxes())
    name = f"box{time.monotonic_ns()}"
    yield name
    docker.call("rm", "--force", name, check=False)
    wait_until(lambda: set(list_sandboxes()) <= before)


def test_run_has_streams_and_exit_status(docker: Engine) -> None:
    done = docker.call(
        "run", "--rm", IMAGE, "sh", "-c", "uname -r; echo err >&2; exit 6", check=False
    )
    assert (done.returncode, done.stderr) == (6, "err\n")
    assert done.stdout.strip() != os.uname().release


def test_a_program_that_is_missing_is_127(docker: Engine) -> None:
    done = docker.call("run", "--rm", IMAGE, "nope", check=False)
    assert (done.returncode, '"nope": executable file not found in $PATH' in done.stderr) == (
        127,
        True,
    )


def test_life_of_a_container(docker: Engine, box: str) -> None:
    docker.call("run", "-d", "--name", box, IMAGE, "sh", "-c", TRAP)
    wait_until(lambda: docker.run("logs", box) == "up")
    assert docker.run("exec", box, "sh", "-c", "ls /sys/class/net").split() == ["eth0", "lo"]
    assert docker.call("exec", box, "sh", "-c", "exit 9", check=False).returncode == 9
    assert docker.run(
        "exec", "-e", "A=b", "-w", "/tmp", box, "sh", "-c", "echo $A; pwd"
    ).split() == ["b", "/tmp"]
    stats = json.loads(docker.run("stats", "--no-stream", "--format", "{{json .}}", box))
    assert not stats["MemUsage"].startswith("0B")
    # What the engine sees of it is its stand-in, and no process of the host besides.
    assert docker.run("top", box, "-o", "pid").split() == ["PID", str(find_pid(docker, box))]
    docker.call("pause", box)
    assert docker.run("inspect", "-f", "{{.State.Status}}", box) == "paused"
    docker.call("unpause", box)
    docker.call("update", "--memory", "200m", "--memory-swap", "200m", box)
    assert docker.run("exec", box, "cat", "/sys/fs/cgroup/memory.max") == str(200 << 20)
    docker.call("stop", "--time", "10", box)
    assert docker.run("logs", box).split() == ["up", "bye"]
    assert docker.run("inspect", "-f", "{{.State.ExitCode}}", box) == "4"
    docker.call("start", box)
    docker.call("restart", "--time", "0", box)
    assert docker.run("exec", box, "echo", "again") == "again"


def test_ports_volumes_and_anothers_network(docker: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("data")
    docker.call(
        *("run", "-d", "--name", box, "-p", "18090:80", "-v", f"{tmp_path}:/data"),
        *(IMAGE, "sh", "-c", SERVE.format(port=80)),
    )
    wait_until(lambda: "httpd" in docker.run("exec", box, "ps"))
    assert fetch(docker, "http://127.0.0.1:18090/") == "page\n"
    docker.call("exec", box, "sh", "-c", "cat /data/given > /data/made")
    assert (tmp_path / "made").read_text() == "data"
    count = len(list_sandboxes())
    page = docker.run(
        "run", "--rm", "--network", f"container:{box}", IMAGE, "wget", "-qO-", "http://127.0.0.1/"
    )
    assert page == "page"
    assert len(list_sandboxes()) == count


def test_containers_of_a_network_know_each_other(docker: Engine, box: str) -> None:
    docker.call("network", "create", "n1")
    try:
        docker.call(
            "run", "-d", "--name", box, "--network", "n1", IMAGE, "sh", "-c", SERVE.format(port=80)
        )
        wait_until(lambda: "httpd" in docker.run("exec", box, "ps"))
        address = docker.run(
            "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", box
        )
        get = ("run", "--rm", "--network", "n1", IMAGE, "wget", "-qO-")
        assert docker.run(*get, f"http://{address}/") == "page"
    finally:
        docker.call("rm", "--force", box)
        docker.call("network", "rm", "n1")


def test_a_restart_policy(docker: Engine, box: str) -> None:
    docker.call(
        "run", "-d", "--restart", "on-failure:2", "--name", box, IMAGE, "sh", "-c", "exit 3"
    )
    show = ("inspect", "-f", "{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}", box)
    wait_until(lambda: docker.run(*show) == "2 exited 3", 60.0)


def test_kill_9_of_the_stand_in(docker: Engine, box: str) -> None:
    docker.call("run", "-d", "--name", box, IMAGE, "sleep", "1000")
    os.kill(find_pid(docker, box), signal.SIGKILL)
    assert docker.run("wait", box) == "137"


def test_kill_9_of_the_daemon(docker: Engine, dockerd: Dockerd, box: str) -> None:
    docker.call("run", "-d", "--name", box, IMAGE, "sleep", "1000")
    stand_in = find_pid(docker, box)
    dockerd.kill()
    assert is_alive(stand_in)
    dockerd.start()
    # Without live-restore Docker ends what it finds running.
    wait_until(lambda: not is_alive(stand_in))
    docker.call("start", box)
    assert docker.run("exec", box, "echo", "again") == "again"
