"""The sandbox: its name, its namespaces, what belongs to the machine."""

from __future__ import annotations

import os
import socket

import pytest

from kata.base.errors import Code
from kata.guest.modules import LOADED_FILE
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import NAMESPACES, Host


@pytest.fixture
def sandbox(host: Host) -> Host:
    host.mounts_may_stay = True  # namespaces are held by mounts until the sandbox ends
    request = pb.CreateSandboxRequest(sandbox_id="s1", hostname="pod", dns=["nameserver 192.0.2.1"])
    host.call("CreateSandbox", request)
    return host


def test_containers_share_name_and_ipc_but_not_pids(sandbox: Host) -> None:
    links = []
    for name in ("c1", "c2"):
        sandbox.run(name, "sleep", "1000")
        command = "hostname; for n in uts ipc pid mnt; do readlink /proc/self/ns/$n; done"
        links.append(sandbox.output(name, "sh", "-c", command).split())
    first, second = links
    assert first[0] == second[0] == "pod"
    assert first[1:3] == second[1:3]
    assert first[3] != second[3]
    assert first[4] != second[4]


def test_machine_keeps_its_own_name_and_resolver(sandbox: Host) -> None:
    assert socket.gethostname() != "pod"
    written = sandbox.agent.path("run/kata-containers/sandbox/resolv.conf")
    assert written.read_text() == "nameserver 192.0.2.1\n"
    assert "/etc/resolv.conf" not in sandbox.agent.mounts()


def test_container_may_set_its_name(sandbox: Host) -> None:
    spec = sandbox.spec("hostname")
    spec["hostname"] = "other"
    sandbox.create("c1", spec)
    sandbox.start("c1")
    assert sandbox.read_all("c1") == b"other\n"


def test_pid_namespace_is_added(host: Host) -> None:
    spec = host.spec("sh", "-c", "echo $$")
    spec["linux"]["namespaces"] = [{"type": kind} for kind in NAMESPACES if kind != "pid"]
    host.create("c1", spec)
    host.start("c1")
    assert host.read_all("c1") == b"1\n"


def test_only_once(sandbox: Host) -> None:
    with pytest.raises(RpcError) as caught:
        sandbox.call("CreateSandbox", pb.CreateSandboxRequest())
    assert caught.value.code == Code.ALREADY_EXISTS


def test_failure_can_be_tried_again(host: Host) -> None:
    host.mounts_may_stay = True
    request = pb.CreateSandboxRequest(storages=[pb.Storage(driver="9p", mount_point="/run/x")])
    with pytest.raises(RpcError) as caught:
        host.call("CreateSandbox", request)
    assert caught.value.code == Code.UNIMPLEMENTED
    assert not any("/ns/" in path for path in host.agent.mounts())
    host.call("CreateSandbox", pb.CreateSandboxRequest())


def test_unknown_kernel_module(host: Host) -> None:
    module = pb.KernelModule(name="no-such-module", parameters=["a=1"])
    with pytest.raises(RpcError) as caught:
        host.call("CreateSandbox", pb.CreateSandboxRequest(kernel_modules=[module]))
    # The kernel is the one that the tests run on; one without modules has nothing to set.
    can_load = os.path.exists(LOADED_FILE)
    assert caught.value.code == (Code.NOT_FOUND if can_load else Code.FAILED_PRECONDITION)


def test_long_hostname(host: Host) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("CreateSandbox", pb.CreateSandboxRequest(hostname="x" * 65))
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_clock_of_a_host_is_left_alone(host: Host) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("SetGuestDateTime", pb.SetGuestDateTimeRequest(Sec=1))
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_random_numbers_take_a_seed(host: Host) -> None:
    host.call("ReseedRandomDev", pb.ReseedRandomDevRequest(data=b"x" * 64))
    with pytest.raises(RpcError) as caught:
        host.call("ReseedRandomDev", pb.ReseedRandomDevRequest())
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_details(host: Host) -> None:
    answer = host.call("GetGuestDetails", pb.GuestDetailsRequest(), pb.GuestDetailsResponse)
    assert answer.agent_details.version
    assert not answer.agent_details.init_daemon
    assert {"virtio-fs", "overlayfs", "ephemeral"} <= set(answer.agent_details.storage_handlers)


def test_metrics(host: Host) -> None:
    text = host.call("GetMetrics", pb.GetMetricsRequest(), pb.Metrics).metrics
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert {
        "kata_agent_threads",
        "kata_agent_total_rss",
        "kata_agent_proc_status",
        "kata_guest_meminfo",
        "kata_guest_cpu_time",
        "kata_guest_netdev_stat",
    } <= names
    for line in text.splitlines():
        if not line.startswith("#"):
            assert float(line.rpartition(" ")[2]) >= 0
