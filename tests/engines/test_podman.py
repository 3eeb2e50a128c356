"""Podman with kata-runtime: containers, pods, networks, volumes, its own life."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import IMAGE, Engine, find_pid, list_sandboxes
from tests.support.runtime import PROGRAM, is_alive, run_engine, wait_until

pytestmark = pytest.mark.e2e

TRAP = 'echo up; trap "echo bye; exit 4" TERM; while :; do sleep 0.1; done'
SERVE = "echo page > /tmp/index.html; exec httpd -f -p {port} -h /tmp"


@pytest.fixture
def box(podman: Engine) -> Iterator[str]:
    """A container's name; it is gone after the test, and its machine."""
    before = set(list_sandboxes())
    name = f"box{time.monotonic_ns()}"
    yield name
    podman.call("rm", "--force", "--time", "0", name, check=False)
    wait_until(lambda: set(list_sandboxes()) <= before)


def fetch(engine: Engine, url: str) -> str:
    """Return a page as a program beside the engine gets it."""

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return engine.netns.run(get)


def test_run_has_streams_and_exit_status(podman: Engine) -> None:
    done = podman.call(
        *("run", "--rm", "--network", "none", IMAGE),
        *("sh", "-c", "uname -r; echo err >&2; exit 5"),
        check=False,
    )
    assert (done.returncode, done.stderr) == (5, "err\n")
    assert done.stdout.strip() != os.uname().release


def test_input_reaches_the_container(podman: Engine) -> None:
    process = podman.begin(
        "run", "--rm", "-i", "--network", "none", IMAGE, "cat", stdin=-1, stdout=-1
    )
    assert process.communicate("words\n", timeout=60)[0] == "words\n"
    assert process.returncode == 0


def test_a_terminal(podman: Engine) -> None:
    master, slave = pty.openpty()
    process = podman.begin(
        *("run", "--rm", "-it", "--network", "none", IMAGE, "sh", "-c", "tty; read a; exit $a"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    shown = b""
    while b"/dev/" not in shown:
        shown += os.read(master, 4096)
    os.write(master, b"7\r")
    assert process.wait(timeout=60) == 7
    os.close(master)


def test_a_program_that_is_missing_is_127_and_no_program_126(podman: Engine, box: str) -> None:
    run = ("run", "--rm", "--network", "none", IMAGE)
    missing = podman.call(*run, "nope", check=False)
    assert missing.returncode == 127
    assert "nope" in missing.stderr
    assert podman.call(*run, "/etc/passwd", check=False).returncode == 126
    podman.call("run", "-d", "--name", box, "--network", "none", IMAGE, "sleep", "1000")
    assert podman.call("exec", box, "nope", check=False).returncode == 127


def test_life_of_a_container(podman: Engine, box: str) -> None:
    podman.call("run", "-d", "--name", box, IMAGE, "sh", "-c", TRAP)
    wait_until(lambda: podman.run("logs", box) == "up")
    assert podman.run("exec", box, "sh", "-c", "ls /sys/class/net").split() == ["eth0", "lo"]
    assert podman.call("exec", box, "sh", "-c", "exit 9", check=False).returncode == 9
    assert podman.run(
        "exec", "-e", "A=b", "-w", "/tmp", "-u", "7", box, "sh", "-c", "echo $A; pwd; id -u"
    ).split() == ["b", "/tmp", "7"]
    stats = json.loads(podman.run("stats", "--no-stream", "--format", "json", box))
    assert stats[0]["mem_usage"].split()[0].rstrip("kMGB") != "0"
    podman.call("pause", box)
    assert podman.run("inspect", "-f", "{{.State.Status}}", box) == "paused"
    podman.call("unpause", box)
    podman.call("stop", "--time", "10", box)
    assert podman.run("logs", box).split() == ["up", "bye"]
    assert podman.run("inspect", "-f", "{{.State.ExitCode}}", box) == "4"
    podman.call("start", box)
    assert podman.run("inspect", "-f", "{{.State.Status}}", box) == "running"
    podman.call("kill", "--signal", "KILL", box)
    podman.call("wait", box)
    assert podman.run("inspect", "-f", "{{.State.ExitCode}}", box) == "137"
    podman.call("rm", box)


def test_ports_and_volumes(podman: Engine, box: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("data")
    podman.call(
        *("run", "-d", "--name", box, "-p", "18080:80", "-v", f"{tmp_path}:/data"),
        *(IMAGE, "sh", "-c", SERVE.format(port=80)),
    )
    wait_until(lambda: "httpd" in podman.run("exec", box, "ps"))
    assert fetch(podman, "http://127.0.0.1:18080/") == "page\n"
    assert podman.run("exec", box, "cat", "/data/given") == "data"
    podman.call("exec", box, "sh", "-c", "echo new > /data/made")
    assert (tmp_path / "made").read_text() == "new\n"


def test_limits_are_the_guests(podman: Engine) -> None:
    shown = podman.run(
        *("run", "--rm", "--network", "none", "--memory", "100m", "--pids-limit", "50"),
        *("--umask", "0027", IMAGE),
        *("sh", "-c", "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; umask"),
    )
    assert shown.split() == [str(100 << 20), "50", "0027"]


def test_a_pod_is_one_machine(podman: Engine) -> None:
    before = set(list_sandboxes())
    pod = f"pod{time.monotonic_ns()}"
    podman.call("pod", "create", "--name", pod, "-p", "18081:80")
    podman.call(
        "run", "-d", "--pod", pod, "--name", f"{pod}-web", IMAGE, "sh", "-c", SERVE.format(port=80)
    )
    wait_until(lambda: "httpd" in podman.run("exec", f"{pod}-web", "ps"))
    (infra,) = set(list_sandboxes()) - before
    assert podman.run("inspect", "-f", "{{.Id}}", f"{pod}-web") != infra
    inside = podman.run(
        *("run", "--rm", "--pod", pod, IMAGE, "sh", "-c", "wget -qO- http://127.0.0.1/; hostname")
    )
    assert inside.split() == ["page", pod]
    assert fetch(podman, "http://127.0.0.1:18081/") == "page\n"
    assert len(set(list_sandboxes()) - before) == 1
    podman.call("pod", "stop", "--time", "1", pod)
    wait_until(lambda: set(list_sandboxes()) <= before)
    podman.call("pod", "start", pod)
    wait_until(lambda: "httpd" in podman.run("exec", f"{pod}-web", "ps"))
    podman.call("pod", "rm", "--force", "--time", "0", pod)
    wait_until(lambda: set(list_sandboxes()) <= before)


def test_processes_are_shared_where_the_pod_says_so(podman: Engine) -> None:
    pod = f"pod{time.monotonic_ns()}"
    podman.call("pod", "create", "--name", pod, "--share", "net,ipc,uts,pid", "--network", "none")
    podman.call("run", "-d", "--pod", pod, IMAGE, "sleep", "4713")
    assert "sleep 4713" in podman.run("run", "--rm", "--pod", pod, IMAGE, "ps")
    podman.call("pod", "rm", "--force", "--time", "0", pod)


def test_a_container_joins_anothers_network(podman: Engine, box: str) -> None:
    podman.call("run", "-d", "--name", box, IMAGE, "sh", "-c", SERVE.format(port=81))
    wait_until(lambda: "httpd" in podman.run("exec", box, "ps"))
    count = len(list_sandboxes())
    page = podman.run(
        *("run", "--rm", "--network", f"container:{box}", IMAGE),
        *("wget", "-qO-", "http://127.0.0.1:81/"),
    )
    assert page == "page"
    assert len(list_sandboxes()) == count


def test_play_kube(podman: Engine, tmp_path: Path) -> None:
    file = tmp_path / "pod.yaml"
    file.write_text(
        f"""\
apiVersion: v1
kind: Pod
metadata:
  name: played
spec:
  containers:
  - name: web
    image: {IMAGE}
    command: ["sh", "-c", "{SERVE.format(port=80)}"]
    ports:
    - containerPort: 80
      hostPort: 18082
  - name: other
    image: {IMAGE}
    command: ["sleep", "1000"]
"""
    )
    before = set(list_sandboxes())
    podman.call("play", "kube", str(file))
    wait_until(lambda: "httpd" in podman.run("exec", "played-web", "ps"))
    assert len(set(list_sandboxes()) - before) == 1
    assert fetch(podman, "http://127.0.0.1:18082/") == "page\n"
    got = podman.run("exec", "played-other", "wget", "-qO-", "http://127.0.0.1/")
    assert got == "page"
    podman.call("play", "kube", "--down", str(file))
    wait_until(lambda: set(list_sandboxes()) <= before)


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--network", "host"), "hostNetwork"),
        (("--pid", "host"), "hostPID"),
        (("--ipc", "host"), "hostIPC"),
    ],
)
def test_the_hosts_namespaces_are_refused(
    podman: Engine, flags: tuple[str, ...], text: str
) -> None:
    done = podman.call("run", "--rm", *flags, IMAGE, "true", check=False)
    assert done.returncode == 126 or done.returncode == 125
    assert text in done.stderr


def test_kill_9_of_the_stand_in(podman: Engine, box: str) -> None:
    podman.call("run", "-d", "--name", box, "--network", "none", IMAGE, "sleep", "1000")
    os.kill(find_pid(podman, box), signal.SIGKILL)
    podman.call("wait", box)
    assert podman.run("inspect", "-f", "{{.State.ExitCode}}", box) == "137"
    podman.call("rm", box)


def test_kill_9_of_conmon(podman: Engine, box: str) -> None:
    podman.call("run", "-d", "--name", box, "--network", "none", IMAGE, "sleep", "1000")
    stand_in = find_pid(podman, box)
    conmon = int(podman.run("inspect", "-f", "{{.State.ConmonPid}}", box))
    os.kill(conmon, signal.SIGKILL)
    # The container does not depend on it.
    assert is_alive(stand_in)
    container = podman.run("inspect", "-f", "{{.Id}}", box)
    podman.call("rm", "--force", "--time", "0", box)
    wait_until(lambda: not is_alive(stand_in))
    # Without conmon Podman 4.3 does not tell the runtime, runc neither; an operator can.
    run_engine([PROGRAM, "delete", container])


def test_kill_9_of_podman(podman: Engine, box: str) -> None:
    """The engine's process in the foreground: the container is conmon's and goes on."""
    words = ("run", "--name", box, "--network", "none", IMAGE, "sh", "-c", "echo up; sleep 1000")
    engine = podman.begin(*words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert engine.stdout is not None
    assert engine.stdout.readline() == "up\n"
    stand_in = find_pid(podman, box)
    engine.kill()
    engine.wait()
    engine.stdout.close()
    assert podman.run("exec", box, "echo", "here") == "here"
    assert is_alive(stand_in)
    podman.call("rm", "--force", "--time", "0", box)
    wait_until(lambda: not is_alive(stand_in))
