"""ttrpc over real sockets: answers, errors, deadlines, and what a hostile peer can send."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.cli.oci.task import Task
from kata.host.shim import daemon
from kata.rpc import frame
from kata.rpc.client import Client, ConnectionLostError, RpcError
from kata.rpc.pb import agent_pb2, health_pb2, task_pb2, ttrpc_pb2
from kata.rpc.server import Server, after_answer

GOLDEN_REQUEST = bytes.fromhex(
    # length 31, stream 1, request, remote closed
    "0000001f" "00000001" "01" "01"
    # service "grpc.Health", method "Check", payload: service "x"; timeout 1 s
    "0a0b" "677270632e4865616c7468" "1205" "436865636b" "1a03" "0a0178" "20" "8094ebdc03"
)  # fmt: skip


class Peer(NamedTuple):
    client: Client
    raw: socket.socket
    lines: list[bytes]


def check(request: health_pb2.CheckRequest) -> health_pb2.HealthCheckResponse:
    if request.service == "missing":
        raise KataError("check missing: no such service", Code.NOT_FOUND)
    if request.service == "slow":
        time.sleep(0.3)
    if request.service == "bug":
        raise ZeroDivisionError("oops")
    return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def read_stdout(request: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
    return agent_pb2.ReadStreamResponse(data=bytes(request.len))


def connect(server: Server) -> socket.socket:
    ours, theirs = socket.socketpair()
    channel = frame.Channel.from_socket(theirs)

    def run() -> None:
        server.serve(channel)
        channel.hang_up()

    threading.Thread(target=run, daemon=True).start()
    return ours


@pytest.fixture
def peer() -> Iterator[Peer]:
    lines: list[bytes] = []
    server = Server(
        {
            "grpc.Health": {"Check": (health_pb2.CheckRequest, check)},
            "grpc.AgentService": {"ReadStdout": (agent_pb2.ReadStreamRequest, read_stdout)},
        },
        Logger(lines.append),
    )
    client = Client(frame.Channel.from_socket(connect(server)))
    yield Peer(client, connect(server), lines)
    client.close()


def call(client: Client, service: str, timeout_s: float | None = 5) -> int:
    request = health_pb2.CheckRequest(service=service)
    answer = client.call("grpc.Health/Check", request, health_pb2.HealthCheckResponse, timeout_s)
    return answer.status


def test_call_returns_answer(peer: Peer) -> None:
    assert call(peer.client, "x") == health_pb2.HealthCheckResponse.SERVING


def test_request_bytes_are_ttrpc() -> None:
    ours, theirs = socket.socketpair()
    client = Client(frame.Channel.from_socket(ours))
    client.begin("grpc.Health/Check", health_pb2.CheckRequest(service="x"), timeout_s=1.0)
    assert theirs.recv(4096) == GOLDEN_REQUEST
    client.close()


def test_error_keeps_code_and_message(peer: Peer) -> None:
    with pytest.raises(RpcError) as caught:
        call(peer.client, "missing")
    assert caught.value.code == Code.NOT_FOUND
    assert str(caught.value) == "check missing: no such service"


def test_unexpected_error_is_internal_and_logged_with_traceback(peer: Peer) -> None:
    with pytest.raises(RpcError) as caught:
        call(peer.client, "bug")
    assert caught.value.code == Code.INTERNAL
    assert any(b"ZeroDivisionError" in line for line in peer.lines)


def test_unknown_method_is_unimplemented(peer: Peer) -> None:
    with pytest.raises(RpcError) as caught:
        peer.client.call("grpc.Health/Nope", health_pb2.CheckRequest(), health_pb2.CheckRequest)
    assert caught.value.code == Code.UNIMPLEMENTED


def test_calls_do_not_wait_for_each_other(peer: Peer) -> None:
    slow = peer.client.begin("grpc.Health/Check", health_pb2.CheckRequest(service="slow"))
    call(peer.client, "x")
    assert not slow._done.is_set()
    slow.wait(time.monotonic() + 5)


def test_deadline(peer: Peer) -> None:
    with pytest.raises(KataError) as caught:
        call(peer.client, "slow", timeout_s=0.05)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    call(peer.client, "x")  # the late answer is dropped, the connection goes on


def test_peer_that_ends_fails_calls_under_way() -> None:
    ours, theirs = socket.socketpair()
    lost = threading.Event()
    client = Client(frame.Channel.from_socket(ours), lambda _error: lost.set())
    pending = client.begin("grpc.Health/Check", health_pb2.CheckRequest())
    theirs.close()
    with pytest.raises(ConnectionLostError):
        pending.wait(time.monotonic() + 5)
    assert lost.wait(5)
    with pytest.raises(ConnectionLostError):
        call(client, "x")


def test_answer_over_the_limit_is_an_error_and_the_connection_lives(peer: Peer) -> None:
    request = agent_pb2.ReadStreamRequest(len=frame.MAX_LENGTH + 1)
    with pytest.raises(RpcError) as caught:
        peer.client.call("grpc.AgentService/ReadStdout", request, agent_pb2.ReadStreamResponse, 10)
    assert caught.value.code == Code.RESOURCE_EXHAUSTED
    call(peer.client, "x")


def test_oversized_request_is_skipped_and_refused(peer: Peer) -> None:
    length = frame.MAX_LENGTH + 1
    peer.raw.sendall(frame.HEADER.pack(length, 7, frame.REQUEST, 0) + bytes(length))
    stream_id, response = read_response(peer.raw)
    assert (stream_id, response.status.code) == (7, Code.RESOURCE_EXHAUSTED)
    peer.raw.sendall(GOLDEN_REQUEST)
    assert read_response(peer.raw)[1].status.code == Code.OK


def test_payload_that_does_not_decode_is_refused(peer: Peer) -> None:
    peer.raw.sendall(frame.HEADER.pack(3, 1, frame.REQUEST, 0) + b"\xff\xff\xff")
    assert read_response(peer.raw)[1].status.code == Code.INVALID_ARGUMENT


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200))
def test_garbage_ends_only_its_own_connection(garbage: bytes) -> None:
    server = Server({"grpc.Health": {"Check": (health_pb2.CheckRequest, check)}}, Logger(len))
    with connect(server) as hostile, connect(server) as good:
        hostile.sendall(garbage)
        hostile.shutdown(socket.SHUT_WR)
        hostile.settimeout(5)
        drain(hostile)
        good.sendall(GOLDEN_REQUEST)
        assert read_response(good)[1].status.code == Code.OK


def drain(sock: socket.socket) -> None:
    """Read answers or nothing, then the end: never a hang."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass  # the server closed with bytes of ours unread


def read_response(sock: socket.socket) -> tuple[int, ttrpc_pb2.Response]:
    reader = frame.Channel(os.dup(sock.fileno()), lambda: None)
    incoming = reader.read_frame()
    assert incoming is not None
    assert incoming.kind == frame.RESPONSE
    return incoming.stream_id, ttrpc_pb2.Response.FromString(incoming.data)


def test_what_follows_an_answer_comes_after_it() -> None:
    arrived: list[bytes] = []
    done = threading.Event()

    def follow() -> None:
        arrived.append(watched.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        done.set()

    def end(request: health_pb2.CheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service == "end":
            after_answer(follow)
        return health_pb2.HealthCheckResponse()

    lines: list[bytes] = []
    server = Server(
        {"grpc.Health": {"Check": (health_pb2.CheckRequest, end)}}, Logger(lines.append)
    )
    ours = connect(server)
    request = ttrpc_pb2.Request(
        service="grpc.Health",
        method="Check",
        payload=health_pb2.CheckRequest(service="end").SerializeToString(),
    )
    watched = ours.dup()
    channel = frame.Channel.from_socket(ours)
    channel.write_frame(1, frame.REQUEST, request.SerializeToString())
    assert done.wait(5)
    assert arrived[0]
    channel.hang_up()
    watched.close()


@pytest.mark.parametrize("length", [0, 1, 8191, 8192, 8193, 1 << 19, (3 << 20) + 1])
def test_a_channel_that_does_not_block_passes_whole_messages(length: int) -> None:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    writing, reading = frame.Channel.from_socket(ours), frame.Channel.from_socket(theirs)
    data = os.urandom(length)
    writer = threading.Thread(target=writing.write_frame, args=(1, frame.RESPONSE, data))
    writer.start()
    read = reading.read_frame()
    writer.join(5)
    assert read is not None
    assert (read.stream_id, read.data) == (1, data)
    writing.hang_up()
    assert reading.read_frame() is None


def test_a_write_that_waits_ends_with_the_peer() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    channel = frame.Channel.from_socket(ours)
    threading.Timer(0.2, theirs.close).start()
    with pytest.raises(OSError, match=r"the peer has hung up|Broken pipe"):
        channel.write_frame(1, frame.RESPONSE, bytes(4 << 20))


def test_a_peer_that_does_not_read_delays_nobody_beyond_a_deadline() -> None:
    """Neither one that waits for room, nor those that wait for that one; nothing is lost."""
    ours, theirs = socket.socketpair()
    client = Client(frame.Channel.from_socket(ours))
    sent = 0

    def fill() -> None:
        nonlocal sent
        while True:
            client.begin("grpc.Health/Check", health_pb2.CheckRequest(service="x" * 5000), 0.05)
            sent += 1

    with pytest.raises(KataError) as full:
        fill()
    assert full.value.code == Code.DEADLINE_EXCEEDED
    assert sent > 1
    late: list[int] = []

    def wait() -> None:
        try:
            call(client, "x", timeout_s=0.3)
        except KataError as error:
            late.append(error.code)

    threads = [threading.Thread(target=wait) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert late == [Code.DEADLINE_EXCEEDED] * 5
    # The peer reads again, and finds whole frames: all that were sent, and the one that was begun.
    reading = frame.Channel.from_socket(theirs)
    writer = threading.Thread(
        target=client.begin, args=("grpc.Health/Check", health_pb2.CheckRequest(service="last"))
    )
    writer.start()
    services: list[str] = []
    while not services or services[-1] != "last":
        incoming = reading.read_frame()
        assert incoming is not None
        request = ttrpc_pb2.Request.FromString(incoming.data)
        services.append(health_pb2.CheckRequest.FromString(request.payload).service)
    writer.join(20)
    assert services[:sent] == ["x" * 5000] * sent
    assert len(services) <= sent + 2
    client.close()


def test_calls_without_an_answer_are_forgotten() -> None:
    ours, theirs = socket.socketpair()
    client = Client(frame.Channel.from_socket(ours))
    for _ in range(3):
        with pytest.raises(KataError):
            call(client, "x", timeout_s=0.01)
    assert not client._calls
    client.close()
    theirs.close()


def test_an_answer_that_nobody_waits_for_goes_nowhere(tmp_path: Path) -> None:
    """A connection that has ended has a number that the next file opened could get."""
    server = Server(
        {"grpc.Health": {"Check": (health_pb2.CheckRequest, check)}}, Logger(lambda _: None)
    )
    ours, theirs = socket.socketpair()
    serving = threading.Thread(
        target=daemon.serve_connection, args=(theirs, server, threading.Event())
    )
    serving.start()
    client = Client(frame.Channel.from_socket(ours))
    client.begin("grpc.Health/Check", health_pb2.CheckRequest(service="slow"))
    time.sleep(0.05)  # the request is under way
    client.close()
    serving.join(5)
    files = [(tmp_path / str(number)).open("wb") for number in range(8)]
    time.sleep(0.5)
    for file in files:
        file.close()
    assert {(tmp_path / str(number)).stat().st_size for number in range(8)} == {0}


def test_one_connection_after_the_other_gets_its_own_answers(tmp_path: Path) -> None:
    """The reader of one that was closed must not read what is for the next, of the same number."""
    kinds = {"Start": (task_pb2.StartRequest, lambda _request: task_pb2.StartResponse(pid=1))}
    server = Server({"containerd.task.v2.Task": kinds}, Logger(lambda _: None))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "shim"))
        listener.listen()

        def accept() -> None:
            for _ in range(1000):
                daemon.serve_connection(listener.accept()[0], server, threading.Event())

        threading.Thread(target=accept, daemon=True).start()

        def start_often() -> None:
            for _ in range(1000):
                with Task("", "x", "x", str(tmp_path / "shim")) as task:
                    task.start()

        caller = threading.Thread(target=start_often, daemon=True)
        caller.start()
        caller.join(30)
        assert not caller.is_alive()


@pytest.mark.parametrize("words", [b"", b"x"])
def test_who_only_looks_is_no_user(words: bytes) -> None:
    """A shim whose engine is gone must not stay because of one who saw that it answers."""
    asked = threading.Event()
    ours, theirs = socket.socketpair()
    ours.sendall(words)
    ours.close()
    daemon.serve_connection(theirs, Server({}, Logger(lambda _: None)), asked)
    assert asked.is_set() == bool(words)
