"""Execs: their own privileges, many at once, and streams that outlive them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import time

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import Host

CAP_NET_RAW = 1 << 13
CAP_SYS_TIME = 1 << 25


@pytest.fixture(params=["native", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both: what can be seen of a process is the same."""
    return str(request.param)


@pytest.fixture
def box(host: Host) -> str:
    """A container that waits."""
    host.run("c1", "sleep", "1000")
    return "c1"


def status_field(text: str, name: str) -> str:
    return next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name}:"))


def test_exit_status(host: Host, box: str) -> None:
    host.execute(box, "e1", "sh", "-c", "exit 3")
    assert host.wait(box, "e1") == 3


def test_own_capabilities(host: Host, box: str) -> None:
    names = ["CAP_NET_RAW", "CAP_SYS_TIME"]
    capabilities = dict.fromkeys(("bounding", "effective", "permitted"), names)
    text = host.output(box, "cat", "/proc/self/status", capabilities=capabilities)
    for field in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status_field(text, field), 16) == CAP_NET_RAW | CAP_SYS_TIME
    assert int(status_field(host.output(box, "cat", "/proc/self/status"), "CapEff"), 16) == 0


def test_own_limits(host: Host, box: str) -> None:
    rlimits = [
        {"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]
    text = host.output(box, "cat", "/proc/self/limits", rlimits=rlimits)
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.splitlines()}
    assert limits["Max open files"] == ["123", "456"]
    assert limits["Max core file size"] == ["0", "0"]


@pytest.mark.parametrize("wanted", [True, False])
def test_own_no_new_privileges(host: Host, box: str, wanted: bool) -> None:
    text = host.output(box, "cat", "/proc/self/status", noNewPrivileges=wanted)
    assert status_field(text, "NoNewPrivs") == str(int(wanted))


def test_user_folder_and_environment(host: Host, box: str) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [44]}
    text = host.output(
        box,
        "sh",
        "-c",
        "id -u; id -G; pwd; echo $A",
        user=user,
        cwd="/tmp",
        env=["PATH=/bin", "A=1=2"],
    )
    assert text.split() == ["1000", "1000", "44", "/tmp", "1=2"]


def test_missing_command_leaves_the_container_alone(host: Host, box: str) -> None:
    for _ in range(2):
        with pytest.raises(RpcError) as caught:
            host.execute(box, "e1", "nope")
        assert re.search(r"executable file .*not found in \$PATH", str(caught.value))
    assert host.output(box, "echo", "alive") == "alive\n"
    with pytest.raises(RpcError) as caught:
        host.wait(box, "e1")
    assert caught.value.code == Code.NOT_FOUND


def test_missing_folder(host: Host, box: str) -> None:
    with pytest.raises(RpcError, match="chdir"):
        host.execute(box, "e1", "true", cwd="/nonexistent")


def test_twenty_at_once(host: Host, box: str) -> None:
    requests = [
        host.exec_request(box, f"e{n}", "sh", "-c", f"echo {n}; exit {n}") for n in range(20)
    ]
    started = [host.begin("ExecProcess", request) for request in requests]
    for call in started:
        call.wait(time.monotonic() + 30)
    for n in range(20):
        assert host.read_all(box, f"e{n}") == f"{n}\n".encode()
        assert host.wait(box, f"e{n}") == n


def test_thirty_in_a_row_leave_nothing(host: Host, box: str) -> None:
    host.output(box, "true")
    before = host.agent.descriptors()
    for _ in range(30):
        host.output(box, "true")
    assert host.agent.descriptors() <= before + 2


def test_stdin_of_5_mb(host: Host, box: str) -> None:
    data = os.urandom(5 << 20)
    host.execute(box, "e1", "sha256sum")
    for offset in range(0, len(data), 3 << 20):
        host.write(data[offset : offset + (3 << 20)], box, "e1")
    host.close_stdin(box, "e1")
    assert host.read_all(box, "e1").split()[0].decode() == hashlib.sha256(data).hexdigest()
    assert host.wait(box, "e1") == 0


def test_background_child_does_not_hold_the_reader(host: Host, box: str) -> None:
    host.execute(box, "e1", "sh", "-c", "sleep 1000 & echo said")
    assert host.wait(box, "e1") == 0
    began = time.monotonic()
    assert host.read_all(box, "e1") == b"said\n"
    assert time.monotonic() - began < 5


def test_output_after_the_end_is_complete(host: Host, box: str) -> None:
    host.execute(box, "e1", "sh", "-c", "(sleep 1000 &) ; head -c 500000 /dev/zero")
    assert host.wait(box, "e1") == 0
    assert len(host.read_all(box, "e1")) == 500000


def test_id_may_be_used_again_after_the_end(host: Host, box: str) -> None:
    host.execute(box, "e1", "sleep", "1000")
    with pytest.raises(RpcError) as caught:
        host.execute(box, "e1", "true")
    assert caught.value.code == Code.ALREADY_EXISTS
    host.signal(signal.SIGKILL, box, "e1")
    assert host.wait(box, "e1") == 137
    host.execute(box, "e1", "true")
    assert host.wait(box, "e1") == 0


def test_containers_own_id_is_taken(host: Host, box: str) -> None:
    with pytest.raises(RpcError) as caught:
        host.execute(box, box, "true")
    assert caught.value.code == Code.ALREADY_EXISTS


def test_not_in_a_stopped_container(host: Host) -> None:
    host.run("c1", "true")
    assert host.wait("c1") == 0
    with pytest.raises(RpcError) as caught:
        host.execute("c1", "e1", "true")
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert "cannot exec in container c1 in state stopped" in str(caught.value)


def test_ends_with_its_container(host: Host, box: str) -> None:
    host.execute(box, "e1", "sleep", "1000")
    host.signal(signal.SIGKILL, box, box)
    assert host.wait(box, "e1") == 137


def test_command_is_required(host: Host, box: str) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("ExecProcess", pb.ExecProcessRequest(container_id=box, exec_id="e1"))
    assert caught.value.code == Code.INVALID_ARGUMENT
