"""Containers: their life, exit statuses, streams, and what goes wrong."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.oci.convert import convert_spec
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import AgentProcess, Host


def code_of(error: pytest.ExceptionInfo[RpcError]) -> int:
    return error.value.code


@pytest.mark.parametrize("status", [0, 1, 7, 127, 255])
def test_exit_status(host: Host, status: int) -> None:
    host.run("c1", "sh", "-c", f"exit {status}")
    assert host.wait("c1") == status


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR1])
def test_exit_status_of_a_signal(host: Host, number: int) -> None:
    # From outside and unconditional, or handled: the first process of a pid namespace is immune to
    # signals from inside, and to those without a handler.
    host.run("c1", "sleep", "1000")
    host.execute("c1", "e1", "sleep", "1000")
    host.signal(number, "c1", "e1")
    assert host.wait("c1", "e1") == 128 + number
    host.signal(signal.SIGKILL, "c1", "c1")
    assert host.wait("c1") == 128 + signal.SIGKILL


def test_output_and_errors_are_separate(host: Host) -> None:
    host.run("c1", "sh", "-c", "echo out; echo err >&2")
    assert host.wait("c1") == 0
    assert host.read_all("c1") == b"out\n"
    assert host.read_all("c1", method="ReadStderr") == b"err\n"
    assert host.read("c1") == b""  # the end stays the end


def test_container_does_not_run_before_start(host: Host) -> None:
    host.create("c1", host.spec("sh", "-c", "echo ran"))
    pending = host.begin("ReadStdout", pb.ReadStreamRequest(container_id="c1", len=100))
    time.sleep(0.2)
    assert not pending._done.is_set()
    host.start("c1")
    assert pb.ReadStreamResponse.FromString(pending.wait(time.monotonic() + 10)).data == b"ran\n"


def test_stdin_of_5_mb_with_its_end(host: Host) -> None:
    data = os.urandom(5 << 20)
    host.run("c1", "sha256sum")
    for offset in range(0, len(data), 1 << 20):
        chunk = data[offset : offset + (1 << 20)]
        assert host.write(chunk, "c1") == len(chunk)
    host.close_stdin("c1")
    assert host.wait("c1") == 0
    assert host.read_all("c1").split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_empty_write_ends_stdin(host: Host) -> None:
    host.run("c1", "cat")
    host.write(b"hello", "c1")
    host.write(b"", "c1")
    assert host.wait("c1") == 0
    assert host.read_all("c1") == b"hello"


def test_write_to_what_has_ended_is_refused(host: Host) -> None:
    host.run("c1", "true")
    assert host.wait("c1") == 0
    with pytest.raises(RpcError) as caught:
        host.write(b"x", "c1")
    assert code_of(caught) == Code.FAILED_PRECONDITION
    host.close_stdin("c1")
    with pytest.raises(RpcError) as caught:
        host.write(b"x", "c1")
    assert code_of(caught) == Code.FAILED_PRECONDITION


def test_blocked_write_ends_with_the_process(host: Host) -> None:
    host.run("c1", "sh", "-c", "sleep 0.5")
    with pytest.raises(RpcError) as caught:
        host.write(bytes(3 << 20), "c1")
    assert code_of(caught) == Code.FAILED_PRECONDITION


def test_output_of_20_mb_is_complete(host: Host) -> None:
    host.run("c1", "sh", "-c", "head -c 20000000 /dev/zero; echo end")
    digest = hashlib.sha256()
    size = 0
    while part := host.read("c1", limit=1 << 20):
        digest.update(part)
        size += len(part)
    assert size == 20000004
    assert digest.hexdigest() == hashlib.sha256(bytes(20000000) + b"end\n").hexdigest()
    assert host.wait("c1") == 0


def test_output_is_there_after_the_end(host: Host) -> None:
    host.run("c1", "sh", "-c", "head -c 300000 /dev/zero")
    assert host.wait("c1") == 0
    assert len(host.read_all("c1")) == 300000


def test_environment_folder_and_user(host: Host) -> None:
    host.run(
        "c1",
        "sh",
        "-c",
        "echo $NAME; pwd; id -u; id -g; id -G",
        env=["PATH=/bin", "NAME=a b"],
        cwd="/tmp",
        user={"uid": 1000, "gid": 1001, "additionalGids": [5]},
    )
    assert host.read_all("c1").decode().split("\n")[:5] == ["a b", "/tmp", "1000", "1001", "1001 5"]
    assert host.wait("c1") == 0


def test_user_can_open_its_standard_streams(host: Host) -> None:
    command = "echo one > /proc/self/fd/1; echo two > /proc/self/fd/2; cat < /proc/self/fd/0"
    host.run("c1", "sh", "-c", command, user={"uid": 1000, "gid": 1000})
    host.write(b"three", "c1")
    host.close_stdin("c1")
    assert host.wait("c1") == 0
    assert host.read_all("c1") == b"one\nthree"
    assert host.read_all("c1", method="ReadStderr") == b"two\n"


def test_program_starts_with_default_signals(host: Host) -> None:
    host.run("c1", "grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")
    words = host.read_all("c1").decode().split()
    assert host.wait("c1") == 0
    # glibc's posix_spawn ignores the two that its threads use; they are nobody else's.
    internal = 1 << 31 | 1 << 32
    assert int(words[1], 16) == 0
    assert int(words[3], 16) & ~internal == 0


def test_many_wait_for_one_end(host: Host) -> None:
    host.run("c1", "sh", "-c", "sleep 0.3; exit 5")
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(host.wait("c1"))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [5] * 5
    assert host.wait("c1", "c1") == 5


def test_first_process_has_the_exec_id_of_its_creation(host: Host) -> None:
    request = pb.CreateContainerRequest(container_id="c1", exec_id="first")
    request.OCI.CopyFrom(convert_spec(host.spec("sh", "-c", "exit 4")))
    host.call("CreateContainer", request)
    host.start("c1")
    assert host.wait("c1", "first") == 4


def test_signal_reaches_the_first_process(host: Host) -> None:
    host.run("c1", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    host.read_until("ready", "c1")
    host.signal(signal.SIGTERM, "c1", "c1")
    assert host.wait("c1") == 9


def test_only_a_kill_is_for_all(host: Host) -> None:
    host.run("c1", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done")
    host.execute("c1", "e1", "sleep", "1000")
    host.read_until("ready", "c1")
    host.execute("c1", "e2", "sh", "-c", "trap 'echo heard' TERM; echo ready; cat")
    host.read_until("ready", "c1", "e2")
    host.signal(signal.SIGTERM, "c1")
    assert host.wait("c1") == 9
    assert host.wait("c1", "e1") == 137  # its namespace's first process has ended
    assert b"heard" not in host.read_all("c1", "e2")


def test_kill_of_all(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    host.execute("c1", "e1", "sleep", "1000")
    host.signal(signal.SIGKILL, "c1")
    assert host.wait("c1") == 137
    assert host.wait("c1", "e1") == 137
    host.signal(signal.SIGKILL, "c1")  # nothing is left to kill, which is no error


def test_remove_of_a_running_container(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    waiting = host.begin("WaitProcess", pb.WaitProcessRequest(container_id="c1"))
    reading = host.begin("ReadStdout", pb.ReadStreamRequest(container_id="c1", len=10))
    host.remove("c1")
    deadline = time.monotonic() + 10
    assert pb.WaitProcessResponse.FromString(waiting.wait(deadline)).status == 137
    assert pb.ReadStreamResponse.FromString(reading.wait(deadline)).data == b""
    with pytest.raises(RpcError) as caught:
        host.wait("c1")
    assert code_of(caught) == Code.NOT_FOUND


def test_pause_and_resume(host: Host) -> None:
    host.run("c1", "sh", "-c", "while :; do echo x; sleep 0.02; done")
    host.read_until("x", "c1")
    host.pause("c1")
    with pytest.raises(RpcError) as caught:
        host.execute("c1", "e1", "true")
    assert code_of(caught) == Code.FAILED_PRECONDITION
    assert "cannot exec in container c1 in state paused" in str(caught.value)
    request = pb.ReadStreamRequest(container_id="c1", len=1 << 20)
    pending = host.begin("ReadStdout", request)
    time.sleep(0.3)
    if pending._done.is_set():  # what was written before the pause
        pending = host.begin("ReadStdout", request)
        time.sleep(0.3)
    assert not pending._done.is_set()
    host.resume("c1")
    pending.wait(time.monotonic() + 10)
    host.signal(signal.SIGKILL, "c1")
    assert host.wait("c1") == 137


def test_remove_of_a_paused_container(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    host.pause("c1")
    host.remove("c1")


def test_missing_command(host: Host) -> None:
    for _ in range(2):  # and the id is free again
        with pytest.raises(RpcError) as caught:
            host.create("c1", host.spec("nope"))
        assert re.search(r"executable file .*not found in \$PATH", str(caught.value))
    assert host.leftovers() == []
    host.run("c1", "true")
    assert host.wait("c1") == 0


@pytest.mark.parametrize("version", ["1.2.1", "1.3.0-dev", ""])
def test_any_version_of_the_specification(host: Host, version: str) -> None:
    host.create("c1", {**host.spec("true"), "ociVersion": version})
    host.start("c1")
    assert host.wait("c1") == 0


def test_missing_rootfs(host: Host) -> None:
    spec = host.spec("true")
    spec["root"]["path"] = "/nonexistent"
    with pytest.raises(RpcError, match="nonexistent"):
        host.create("c1", spec)


def test_duplicate_id(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.create("c1", host.spec("true"))
    assert code_of(caught) == Code.ALREADY_EXISTS
    assert host.output("c1", "echo", "alive") == "alive\n"


def test_unknown_container(host: Host) -> None:
    for action in (host.start, host.wait, host.remove, host.pause, host.read):
        with pytest.raises(RpcError) as caught:
            action("missing")
        assert code_of(caught) == Code.NOT_FOUND


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "x" * 300, ".", "a\nb"])
def test_bad_id(host: Host, bad: str) -> None:
    with pytest.raises(RpcError) as caught:
        host.create(bad, host.spec("true"))
    assert code_of(caught) == Code.INVALID_ARGUMENT
    host.run("c1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.execute("c1", bad, "true")
    assert code_of(caught) == Code.INVALID_ARGUMENT


def test_longest_id(host: Host) -> None:
    name = "a" * 76
    host.run(name, "sh", "-c", "tty; sleep 1000", terminal=True)
    assert "/dev/pts/0" in host.read_until("\n", name)
    host.execute(name, "b" * 76, "tty", terminal=True)
    assert "/dev/pts/1" in host.read_until("\n", name, "b" * 76)


def test_folders_of_the_agent_are_no_reserved_names(host: Host) -> None:
    for name in ("shared", "sandbox", "crun"):
        host.run(name, "echo", name)
        assert host.read_all(name).decode().strip() == name


def test_start_twice(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.start("c1")
    assert code_of(caught) == Code.FAILED_PRECONDITION
    assert "cannot start container c1 in state running" in str(caught.value)


def test_bad_signal(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.signal(65, "c1", "c1")
    assert code_of(caught) == Code.INVALID_ARGUMENT


def test_specification_is_required(host: Host) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("CreateContainer", pb.CreateContainerRequest(container_id="c1"))
    assert code_of(caught) == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("runtime", ["crun"])
def test_update(host: Host) -> None:
    host.run("c1", "sleep", "1000")
    host.update("c1", {"memory": {"limit": 64 << 20}})


def test_destroy_ends_the_agent_after_its_answer(agent: AgentProcess, rootfs: Path) -> None:
    host = Host(agent, rootfs)
    host.run("c1", "sleep", "1000")
    waiting = host.begin("WaitProcess", pb.WaitProcessRequest(container_id="c1"))
    host.call("DestroySandbox", pb.DestroySandboxRequest())
    assert agent.wait() == 0
    assert waiting._done.is_set()
    host.close()


def test_program_of_an_unknown_format(host: Host, rootfs: Path) -> None:
    """As with runc and crun: the start succeeds, and the process says why it ended."""
    program = rootfs / "tmp" / "broken"
    program.write_bytes(b"\x7fELF broken")
    program.chmod(0o755)
    host.create("c1", host.spec("/tmp/broken"))
    host.start("c1")
    assert host.wait("c1") == 1
    said = host.read_all("c1", method="ReadStderr").lower()
    assert b"exec format error" in said
    assert b"/tmp/broken" in said
