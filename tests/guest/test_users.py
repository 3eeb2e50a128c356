"""Containers whose users are mapped: the user namespace of a pod, made in the guest."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import AgentProcess, Host, make_rootfs

MAP = [{"containerID": 0, "hostID": 200000, "size": 1000}]
NAMESPACES = ("user", "pid", "ipc", "uts", "mount")


@pytest.fixture(params=["native", "crun"])
def runtime(request: pytest.FixtureRequest) -> str:
    """Both: what can be seen of a process is the same."""
    return str(request.param)


@pytest.fixture(scope="session")
def rootfs() -> Iterator[Path]:
    # Every folder above has to let mapped users pass.
    with tempfile.TemporaryDirectory(prefix="kata-") as folder:
        Path(folder).chmod(0o711)
        yield make_rootfs(Path(folder))


def mapped(host: Host, *args: str, **linux: Any) -> dict[str, Any]:
    spec = host.spec(*args)
    spec["linux"].update(
        {
            "namespaces": [{"type": kind} for kind in NAMESPACES],
            "uidMappings": MAP,
            "gidMappings": MAP,
            **linux,
        }
    )
    return spec


@pytest.fixture
def users(host: Host) -> Iterator[Host]:
    host.call("CreateSandbox", pb.CreateSandboxRequest(sandbox_id="s", hostname="mapped"))
    yield host
    host.mounts_may_stay = True
    host.call("DestroySandbox", pb.DestroySandboxRequest())


def test_root_is_nobody_of_the_guest(users: Host, agent: AgentProcess) -> None:
    users.create("c", mapped(users, "sleep", "1000"))
    users.start("c")
    assert users.output("c", "cat", "/proc/self/uid_map").split() == ["0", "200000", "1000"]
    assert users.output("c", "cat", "/proc/self/gid_map").split() == ["0", "200000", "1000"]
    assert users.output("c", "id", "-u") == "0\n"
    assert users.output("c", "hostname") == "mapped\n"


def test_containers_share_the_pods_users(users: Host) -> None:
    found = []
    for name in ("a", "b"):
        users.create(name, mapped(users, "sleep", "1000"))
        users.start(name)
        kinds = ("user", "ipc", "uts", "pid", "mnt")
        found.append([users.output(name, "readlink", f"/proc/self/ns/{kind}") for kind in kinds])
    first, second = found
    assert first[:3] == second[:3]
    assert not set(first[3:]).intersection(second[3:])


def test_streams_belong_to_the_mapped_user(users: Host) -> None:
    users.create("c", mapped(users, "sleep", "1000"))
    users.start("c")
    user = {"uid": 7, "gid": 7}
    assert users.output("c", "sh", "-c", "echo hello > /dev/stdout", user=user) == "hello\n"
    assert users.output("c", "id", "-u", user=user) == "7\n"


@pytest.mark.parametrize("runtime", ["native"], indirect=True)  # crun leaves it the root's
def test_a_terminal_belongs_to_the_mapped_user(users: Host) -> None:
    users.create("c", mapped(users, "sleep", "1000"))
    users.start("c")
    user = {"uid": 7, "gid": 7, "additionalGids": [8]}
    script = "tty; stat -c %u $(tty); id -G; echo said > $(tty)"
    users.execute("c", "e1", "sh", "-c", script, user=user, terminal=True)
    assert users.wait("c", "e1") == 0
    assert users.read_all("c", "e1").split() == [b"/dev/pts/0", b"7", b"7", b"8", b"said"]


@pytest.mark.parametrize(
    ("linux", "message"),
    [
        ({"uidMappings": []}, "linux.uidMappings: a user namespace needs"),
        ({"gidMappings": [{**MAP[0], "size": 0}]}, "set gidMappings '0 200000 0'"),
    ],
)
def test_map_that_is_none(users: Host, linux: dict[str, Any], message: str) -> None:
    with pytest.raises(RpcError, match=message):
        users.create("c", mapped(users, "true", **linux))
    users.create("c", mapped(users, "true"))


def test_another_map_is_refused(users: Host) -> None:
    users.create("a", mapped(users, "true"))
    other = [{**MAP[0], "hostID": 300000}]
    with pytest.raises(RpcError, match="uidMappings and gidMappings are not those"):
        users.create("b", mapped(users, "true", uidMappings=other))
    users.create("b", mapped(users, "true"))
