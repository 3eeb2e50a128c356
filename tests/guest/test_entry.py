"""Processes that the agent itself starts in containers: what of the agent they could reach."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.guest import privileges
from kata.rpc.client import RpcError
from tests.guest.harness import Host, is_forker, until

LIBCS_OWN = 1 << 31 | 1 << 32
PROFILE = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64"],
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
}


def find_forker(host: Host) -> int:
    """Return the pid of the agent's helper."""
    tasks = Path(f"/proc/{host.agent.pid}/task").glob("*/children")
    children = [int(word) for file in tasks for word in file.read_text().split()]
    return next(pid for pid in children if is_forker(pid))


@pytest.fixture
def box(host: Host) -> str:
    """A container that waits."""
    host.run("c1", "sleep", "1000")
    return "c1"


@pytest.fixture(params=["native", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both: what can be seen of a process is the same."""
    return str(request.param)


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_crun_is_not_asked(host: Host, box: str) -> None:
    assert host.output(box, "echo", "on") == "on\n"
    assert "verb=exec" not in host.agent.log()


def test_no_descriptor_of_the_agent(host: Host, box: str) -> None:
    # The last one is the listing's own.
    assert host.output(box, "ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]
    # A working folder by a descriptor that leaks from the runtime (CVE-2024-21626).
    for number in range(3, 24):
        with pytest.raises(RpcError, match=r"chdir|cwd"):
            host.output(box, "true", cwd=f"/proc/self/fd/{number}")


def test_the_runtimes_program_is_not_run(host: Host, box: str) -> None:
    """CVE-2019-5736: a container names the runtime's own program as its command."""
    try:
        host.execute(box, "e1", "/proc/self/exe", "--version")
        assert host.wait(box, "e1") != 0
        told = host.read_all(box, "e1")
    except RpcError as error:
        told = str(error).encode()
    assert b"Python" not in told
    assert b"crun version" not in told


def test_system_calls_are_filtered(host: Host) -> None:
    spec = host.spec("sleep", "1000")
    spec["linux"]["seccomp"] = PROFILE
    host.create("c1", spec)
    host.start("c1")
    for privileges_kept in (True, False):
        host.execute("c1", "e1", "mkdir", "/tmp/x", noNewPrivileges=privileges_kept)
        assert host.wait("c1", "e1") == 1
        assert b"Operation not supported" in host.read_all("c1", "e1", "ReadStderr")


def test_same_namespaces_and_cgroups_as_the_first_process(host: Host, box: str) -> None:
    names = ("mnt", "pid", "ipc", "uts", "net", "user", "cgroup")
    script = "for n in $0 $@; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done"
    links = host.output(box, "sh", "-c", script, *names).split()
    assert links[::2] == links[1::2]
    assert len(links) == 2 * len(names)
    own, first = (
        host.output(box, "cat", f"/proc/{pid}/cgroup").splitlines() for pid in ("self", "1")
    )
    assert own == first


def test_user_groups_and_umask(host: Host, box: str) -> None:
    user = {"uid": 7, "gid": 8, "additionalGids": [9, 10]}
    told = host.output(box, "sh", "-c", "id -u; id -G; umask", user=user)
    assert told.split() == ["7", "8", "9", "10", "0022"]


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_score_for_being_killed(host: Host, box: str) -> None:
    """Which crun leaves as it is."""
    assert host.output(box, "cat", "/proc/self/oom_score_adj", oomScoreAdj=500) == "500\n"


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_home_of_the_user(host: Host, box: str) -> None:
    assert host.output(box, "sh", "-c", "echo $HOME", user={"uid": 4242, "gid": 1}) == "/\n"
    env = ["PATH=/bin", "HOME=/given"]
    assert host.output(box, "sh", "-c", "echo $HOME", env=env) == "/given\n"


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_signals_are_the_kernels_defaults(host: Host, box: str) -> None:
    text = host.output(box, "cat", "/proc/self/status")
    fields = dict(line.split(":\t") for line in text.splitlines() if line.startswith("Sig"))
    assert int(fields["SigBlk"], 16) == 0
    # But for two that are libc's own, and stay as whoever started the agent had them.
    assert int(fields["SigIgn"], 16) & ~LIBCS_OWN == 0


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_a_forker_that_was_killed_is_replaced(host: Host, box: str) -> None:
    forker = find_forker(host)
    os.kill(forker, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{forker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for _ in range(2):
        assert host.output(box, "echo", "on") == "on\n"
    host.run("c2", "sleep", "1000")
    assert host.output("c2", "echo", "on") == "on\n"


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_a_container_is_removed_while_it_is_entered(host: Host, box: str) -> None:
    """Whoever comes too late is told so; nobody gets into a container that is made meanwhile."""
    assert host.output(box, "echo", "on") == "on\n"
    forker = find_forker(host)
    seen: list[str] = []
    wrong: list[RpcError] = []

    def enter(name: str, thread: int) -> None:
        try:
            for number in itertools.count():
                host.execute(name, f"e{thread}-{number}", "cat", "/proc/1/cmdline")
                host.wait(name, f"e{thread}-{number}")
                told = host.read_all(name, f"e{thread}-{number}").split(b"\0")
                seen.append(f"{name} {told[1].decode()}" if len(told) > 1 else name)
        except RpcError as error:
            if error.code not in (Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.UNKNOWN):
                wrong.append(error)

    for number in range(10, 18):
        name = f"c{number}"
        host.run(name, "sleep", f"100{number}")
        threads = [threading.Thread(target=enter, args=(name, thread)) for thread in range(4)]
        for thread in threads:
            thread.start()
        until(lambda name=name: any(line.startswith(f"{name} ") for line in seen), "nobody got in")
        host.signal(signal.SIGKILL, name)
        host.remove(name)
        host.run(f"{name}-next", "sleep", f"200{number}")
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        host.signal(signal.SIGKILL, f"{name}-next")
        host.remove(f"{name}-next")
    assert not wrong
    assert {line for line in seen if " " in line} == {
        f"c{number} 100{number}" for number in range(10, 18)
    }
    assert find_forker(host) == forker


@pytest.mark.parametrize("runtime", ["native"], indirect=True)
def test_an_exec_after_the_end_is_refused(host: Host) -> None:
    host.run("c1", "true")
    host.wait("c1")
    with pytest.raises(RpcError):
        host.output("c1", "true")


def test_names_of_capabilities_and_limits() -> None:
    assert privileges.numbers_of(["CAP_CHOWN", "cap_checkpoint_restore"]) == {0, 40}
    assert privileges.limit_number("RLIMIT_RTTIME") == 15
    with pytest.raises(KataError, match="unknown capability CAP_FLY"):
        privileges.numbers_of(["CAP_FLY"])
    with pytest.raises(KataError, match="unknown limit RLIMIT_NONE"):
        privileges.limit_number("RLIMIT_NONE")
