"""A process's streams, let go while a thread still means to read or write them."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import KataError
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.host.sandbox.agent import Agent
from kata.host.shim.standin import Controls, StandIn
from kata.host.shim.stdio import StdioSpec, TaskIo
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from kata.rpc.pb import agent_pb2, empty_pb2
from kata.rpc.server import Server

LOG = Logger(lambda _: None)
CONTROLS = Controls(lambda _: None, lambda _width, _height: None, lambda: None)


class Guest:
    """An agent whose answers come when the test says."""

    def __init__(self) -> None:
        self.output: queue.Queue[bytes] = queue.Queue()
        self.input: queue.Queue[bytes] = queue.Queue()
        read, write = agent_pb2.ReadStreamRequest, agent_pb2.WriteStreamRequest
        methods: dict[str, Any] = {
            "ReadStdout": (read, self._read),
            "ReadStderr": (read, lambda _: agent_pb2.ReadStreamResponse()),
            "WriteStdin": (write, self._write),
            "CloseStdin": (agent_pb2.CloseStdinRequest, lambda _: empty_pb2.Empty()),
        }
        server = Server({"grpc.AgentService": methods}, LOG)
        ours, theirs = socket.socketpair()
        channel = Channel.from_socket(theirs)
        threading.Thread(target=server.serve, args=(channel,), daemon=True).start()
        self._client = Client(Channel.from_socket(ours))
        self.agent = Agent(self._client, 5.0)

    def _read(self, _: agent_pb2.ReadStreamRequest) -> agent_pb2.ReadStreamResponse:
        return agent_pb2.ReadStreamResponse(data=self.output.get())

    def _write(self, request: agent_pb2.WriteStreamRequest) -> agent_pb2.WriteStreamResponse:
        self.input.put(request.data)
        return agent_pb2.WriteStreamResponse(len=len(request.data))

    def close(self) -> None:
        """Hang up."""
        self._client.close()
        self.output.put(b"")
        self.output.put(b"")


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest()
    yield made
    made.close()


def make_io(folder: Path) -> TaskIo:
    for name in ("in", "out"):
        os.mkfifo(folder / name)
    spec = StdioSpec(str(folder / "in"), str(folder / "out"), "", terminal=False)
    return TaskIo(spec, ("ns", "c"), Spawner(), LOG, CONTROLS)


def count_descriptors() -> int:
    """Return how many there are; those of tests before may become fewer at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def open_files(folder: Path) -> list[Path]:
    """Open so many files that every number that has become free is one of theirs."""
    folder.mkdir()
    for number in range(32):
        (folder / str(number)).touch()
    return [folder / str(number) for number in range(32)]


def test_output_that_comes_after_the_end_goes_nowhere(guest: Guest, tmp_path: Path) -> None:
    before = count_descriptors()
    io = make_io(tmp_path)
    io.open()
    io.begin(guest.agent, "c", "")
    reader = os.open(tmp_path / "out", os.O_RDONLY | os.O_NONBLOCK)
    guest.output.put(b"first")
    deadline = time.monotonic() + 5
    text = b""
    while text != b"first" and time.monotonic() < deadline:
        try:
            text += os.read(reader, 100)
        except BlockingIOError:
            time.sleep(0.01)
    assert text == b"first"
    io.close()  # while the next piece is waited for
    assert os.read(reader, 100) == b""  # nobody writes any more
    paths = open_files(tmp_path / "others")
    others = [path.open("wb") for path in paths]
    guest.output.put(b"late")
    time.sleep(0.3)
    for other in others:
        other.close()
    os.close(reader)
    assert {path.stat().st_size for path in paths} == {0}
    guest.output.put(b"")
    deadline = time.monotonic() + 5
    while count_descriptors() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert count_descriptors() <= before


def test_input_of_others_is_not_taken(guest: Guest, tmp_path: Path) -> None:
    """Bytes come just as a process is deleted; the next stream of its number is another's."""
    for number in range(300):
        folder = tmp_path / str(number)
        folder.mkdir()
        io = make_io(folder)
        io.open()
        io.begin(guest.agent, "c", "")
        writer = os.open(folder / "in", os.O_WRONLY | os.O_NONBLOCK)
        guest.output.put(b"")
        os.write(writer, b"mine")
        io.close()
        pipes = [os.pipe() for _ in range(8)]
        for _, end in pipes:
            os.write(end, b"another's")
        time.sleep(0.001)
        kept = [os.read(start, 100) for start, _ in pipes]
        for fd in (writer, *(fd for pipe in pipes for fd in pipe)):
            os.close(fd)
        assert kept == [b"another's"] * 8
    assert set(guest.input.queue) <= {b"mine"}


def test_what_is_deleted_is_not_opened(tmp_path: Path) -> None:
    before = count_descriptors()
    io = make_io(tmp_path)
    io.close()
    with pytest.raises(KataError, match="their process was deleted"):
        io.open()
    assert count_descriptors() <= before


def test_what_is_deleted_while_it_is_opened_leaves_nothing(tmp_path: Path) -> None:
    before = count_descriptors()
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        io = make_io(folder)
        closing = threading.Thread(target=io.close)
        closing.start()
        with contextlib.suppress(KataError):  # which of them is faster is not the question
            io.open()
        closing.join()
    assert count_descriptors() <= before


def test_no_program_inherits_a_stand_ins_streams(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / "link"))
        listener.listen()

        def greet() -> None:
            peer, _ = listener.accept()
            with peer:
                socket.send_fds(peer, [b"r"], [0, 1, 2])

        greeting = threading.Thread(target=greet)
        greeting.start()
        stand_in = StandIn(str(tmp_path / "link"), LOG)
        greeting.join()
    assert [os.get_inheritable(fd) for fd in stand_in.streams] == [False] * 3
    stand_in.close()
    for fd in stand_in.streams:
        os.close(fd)


@pytest.mark.parametrize("is_followed", [False, True])
def test_a_stand_in_that_is_left_is_closed_at_once(tmp_path: Path, is_followed: bool) -> None:
    """Also where something holds the object still, as the traceback of an error does."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(tmp_path / "link"))
    listener.listen(1)
    peers: list[socket.socket] = []

    def greet() -> None:
        peer, _ = listener.accept()
        socket.send_fds(peer, [b"r"], [listener.fileno()] * 3)
        peers.append(peer)

    greeter = threading.Thread(target=greet)
    greeter.start()
    before = count_descriptors()
    stand_in = StandIn(str(tmp_path / "link"), LOG)
    greeter.join()
    for fd in stand_in.streams:
        os.close(fd)
    if is_followed:
        stand_in.follow(CONTROLS)
    assert count_descriptors() == before + 2  # its own, and the peer's
    stand_in.close()
    deadline = time.monotonic() + 5
    while count_descriptors() > before + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    del stand_in
    peers[0].close()
    listener.close()
