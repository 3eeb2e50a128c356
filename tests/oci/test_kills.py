"""kill -9 of what stands between an engine and a container: the container ends, nothing is left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.oci.conftest import BundleMaker
from tests.support.ids import make_id
from tests.support.leaks import find_processes
from tests.support.runtime import Bundle, Runtime, Supervised, is_alive, wait_until

pytestmark = pytest.mark.e2e


def find_part(name: str, program: str) -> int:
    lines = [line for line in find_processes(name) if line.endswith(program)]
    return int(lines[0].split()[0])


def test_the_stand_in(runtime: Runtime, bundle: Bundle, name: str) -> None:
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    runtime.call("start", name)
    os.kill(runtime.pid(name), signal.SIGKILL)
    assert process.finish() == ("", -signal.SIGKILL)
    assert runtime.status(name) == "stopped"
    wait_until(lambda: not [line for line in find_processes(name) if "qemu" in line])
    runtime.call("delete", name)


def test_the_stand_in_of_a_created_container(runtime: Runtime, bundle: Bundle, name: str) -> None:
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    os.kill(runtime.pid(name), signal.SIGKILL)
    assert process.finish() == ("", -signal.SIGKILL)
    assert "has stopped" in runtime.call("start", name, check=False).stderr
    runtime.call("delete", name)


@pytest.mark.parametrize("program", ["containerd-shim-kata-v2", "qemu-system-x86_64", "virtiofsd"])
def test_the_sandbox(runtime: Runtime, bundle: Bundle, name: str, program: str) -> None:
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    runtime.call("start", name)
    os.kill(find_part(name, program), signal.SIGKILL)
    _, status = process.finish()
    assert status == (137 if "shim" in program else 255)
    assert runtime.status(name) == "stopped"
    assert runtime.call("kill", name, "KILL", check=False).returncode == 1
    runtime.call("delete", name)
    assert not find_processes(name)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("after_s", [0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
def test_create_at_any_moment(
    runtime: Runtime, bundle: Bundle, name: str, after_s: float, signum: int
) -> None:
    bundle.run("sleep", "1000")
    process = runtime.begin("create", "-b", str(bundle.folder), name)
    time.sleep(after_s)
    process.send_signal(signum)
    process.wait()
    runtime.call("delete", "--force", name)
    assert name not in runtime.list_names()
    assert not Path(runtime.root, name).exists()
    # The test's fixture sees what is left of it elsewhere.


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.2])
def test_exec_at_any_moment(shared_runtime: Runtime, shared: str, after_s: float) -> None:
    process = shared_runtime.begin("exec", shared, "sleep", "4712")
    time.sleep(after_s)
    process.kill()
    process.wait()
    # Killed before the process runs it does not run; afterwards it is the stand-in's, which lives.
    assert shared_runtime.call("exec", shared, "true").returncode == 0
    shared_runtime.call("exec", shared, "sh", "-c", "pkill -f 'sleep 471[2]'; true")


@pytest.mark.parametrize("after_s", [0.1, 0.15, 0.2, 0.3])
def test_exec_with_its_stand_in_at_any_moment(
    shared_runtime: Runtime, shared: str, after_s: float
) -> None:
    """Also while the guest starts the process, which it cannot be told to end yet."""
    processes = [
        shared_runtime.begin("exec", shared, "sleep", "4714", start_new_session=True)
        for _ in range(4)
    ]
    time.sleep(after_s)
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    look = ("exec", shared, "sh", "-c", "pgrep -f 'sleep 471[4]' || true")
    time.sleep(0.3)  # what was asked for comes
    wait_until(lambda: not shared_runtime.call(*look).stdout)


@pytest.mark.parametrize("after_s", [0.1, 0.2, 0.3, 0.5])
def test_an_interrupted_creation_in_a_pod(
    runtime: Runtime, make_bundle: BundleMaker, name: str, after_s: float
) -> None:
    """Ctrl-C: the pod's machine has nothing that nobody knows, and can be deleted."""
    pod = make_bundle()
    runtime.start_pod(pod, name)
    member = make_id("member")
    bundle = make_bundle().join(name).run("sleep", "1000")
    process = runtime.begin("create", "-b", str(bundle.folder), member)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    if process.wait(20):
        assert member not in runtime.list_names()
        runtime.create(bundle, member)
    runtime.call("delete", "--force", member)
    runtime.call("delete", "--force", name)
    runtime.create(pod, name)  # its shim has ended: the id is free
    runtime.call("delete", "--force", name)


def test_an_interruption_that_comes_too_late(
    runtime: Runtime, make_bundle: BundleMaker, name: str
) -> None:
    """A creation that fails leaves no container, one that does not has made it."""
    runtime.start_pod(make_bundle(), name)
    bundle = make_bundle().join(name).run("sleep", "1000")
    for number in range(10):
        member = make_id(f"member {number}")
        process = runtime.begin("create", "-b", str(bundle.folder), member)
        mark = runtime.root / member / "creating"
        wait_until(mark.exists, pause_s=0.0)
        while mark.exists():
            pass
        process.send_signal(signal.SIGINT)
        assert (process.wait(20) == 0) == (member in runtime.list_names())
        runtime.call("delete", "--force", member)
    runtime.call("delete", "--force", name)


def test_a_guest_that_hangs_is_killed(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """Whoever kills a container gets rid of it, and of its machine."""
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    runtime.call("start", name)
    os.kill(find_part(name, "qemu-system-x86_64"), signal.SIGSTOP)
    runtime.call("kill", name, "KILL")
    assert process.finish() == ("", 128 + signal.SIGKILL)
    runtime.call("delete", name)
    runtime.create(bundle, name)
    os.kill(find_part(name, "qemu-system-x86_64"), signal.SIGSTOP)
    runtime.call("delete", "--force", name)


def test_a_deleted_container_takes_its_stand_in_along(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    runtime.create(bundle.run("sleep", "1000"), name)
    pid = runtime.pid(name)
    runtime.call("delete", name)
    assert not is_alive(pid)
