"""The services as a whole: every method, and peers that misbehave."""

from __future__ import annotations

import re
import socket
import struct
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from kata.rpc.pb import health_pb2
from tests.guest.harness import SOURCES, AgentProcess, Host

PROTO = SOURCES.parent / "proto" / "agent.proto"


def check(host: Host) -> int:
    request = health_pb2.CheckRequest()
    return host.call("grpc.Health/Check", request, health_pb2.HealthCheckResponse).status


def test_health(host: Host) -> None:
    assert check(host) == health_pb2.HealthCheckResponse.SERVING
    version = host.call(
        "grpc.Health/Version", health_pb2.CheckRequest(), health_pb2.VersionCheckResponse
    )
    assert version.agent_version
    assert version.grpc_version


def test_every_method_of_the_protocol_is_in_the_table() -> None:
    from kata.base.log import Logger
    from kata.guest.agent import Agent
    from kata.guest.guest import Guest
    from kata.guest.reaper import Reaper

    log = Logger(lambda _: None)
    guest = Guest(is_ours=False)
    guest.set_ready()
    table = Agent(guest, Reaper(log), log)._agent_methods()
    declared = re.findall(r"rpc (\w+)\((\w+)\)", PROTO.read_text())
    assert {name: kind.DESCRIPTOR.name for name, (kind, _) in table.items()} == dict(declared)


def test_later_methods_say_so(host: Host) -> None:
    with pytest.raises(RpcError) as caught:
        host.call("SetPolicy", pb.SetPolicyRequest())
    assert caught.value.code == Code.UNIMPLEMENTED


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(10),
        struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0) + b"x" * 1000,
        struct.pack(">IIBB", 100, 1, 1, 0) + b"short",
        struct.pack(">IIBB", 4, 1, 1, 0) + b"\xff\xff\xff\xff",
        struct.pack(">IIBB", 4, 1, 3, 0) + b"data",
    ],
)
def test_garbage_leaves_the_agent_serving(host: Host, agent: AgentProcess, data: bytes) -> None:
    raw = agent.connect()
    raw.sendall(data)
    raw.shutdown(socket.SHUT_WR)
    raw.settimeout(10)
    while raw.recv(4096):
        pass
    raw.close()
    assert check(host) == health_pb2.HealthCheckResponse.SERVING


def test_second_connection_sees_the_same_containers(host: Host, rootfs: Path) -> None:
    host.run("c1", "sh", "-c", "read x; exit 6")
    other = Host(host.agent, rootfs)
    other.write(b"\n", "c1")
    assert other.wait("c1") == 6
    other.close()


def test_connection_that_ends_leaves_containers_alone(host: Host, rootfs: Path) -> None:
    other = Host(host.agent, rootfs)
    other.run("c1", "sleep", "1000")
    other.begin("ReadStdout", pb.ReadStreamRequest(container_id="c1", len=10))
    other.close()
    assert host.output("c1", "echo", "alive") == "alive\n"
