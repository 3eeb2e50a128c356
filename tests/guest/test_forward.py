"""Connections to ports in the guest, through the agent."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.rpc.client import Call, RpcError
from kata.rpc.pb import forward_pb2 as pb
from tests.guest.harness import TIMEOUT_S, AgentProcess, Host, until

SERVICE = "kata.Forward"
SYS_RECVFROM = "45"  # x86_64


class Connection:
    """A connection that the agent made, and its other end."""

    def __init__(self, host: Host, listener: socket.socket) -> None:
        self._host = host
        request = pb.DialRequest(port=port_of(listener))
        self.number = host.call(f"{SERVICE}/Dial", request, pb.DialResponse).connection
        self.far, _ = listener.accept()
        self.far.settimeout(10)

    def receive(self, limit: int = 0) -> bytes:
        return received(self.begin_receive(limit))

    def begin_receive(self, limit: int = 0) -> Call:
        request = pb.ReceiveRequest(connection=self.number, len=limit)
        return self._host.begin(f"{SERVICE}/Receive", request)

    def send(self, data: bytes) -> None:
        wait(self.begin_send(data))

    def begin_send(self, data: bytes) -> Call:
        request = pb.SendRequest(connection=self.number, data=data)
        return self._host.begin(f"{SERVICE}/Send", request)

    def close(self) -> None:
        self._host.call(f"{SERVICE}/Close", pb.CloseRequest(connection=self.number))


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    address = request.param
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as made:
        made.settimeout(10)
        yield made


@pytest.fixture
def connection(host: Host, listener: socket.socket) -> Iterator[Connection]:
    made = Connection(host, listener)
    yield made
    made.far.close()
    made.close()


def is_receiving(pid: int) -> bool:
    """Return whether a thread waits in recvfrom(2); what the host sends is read by read(2)."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has ended
            if (task / "syscall").read_text().split()[0] == SYS_RECVFROM:
                return True
    return False


def wait(call: Call) -> bytes:
    return call.wait(time.monotonic() + TIMEOUT_S)


def received(call: Call) -> bytes:
    return pb.ReceiveResponse.FromString(wait(call)).data


def code_of(call: Call) -> int:
    try:
        wait(call)
    except RpcError as error:
        return error.code
    return Code.OK


def refusal(call: Call, code: int) -> str:
    with pytest.raises(RpcError) as caught:
        wait(call)
    assert caught.value.code == code, caught.value
    return caught.value.message


def test_data_goes_both_ways(connection: Connection) -> None:
    connection.send(b"question")
    assert connection.far.recv(100) == b"question"
    connection.far.sendall(b"answer")
    assert connection.receive() == b"answer"


def test_no_more_is_received_than_asked_for(connection: Connection) -> None:
    connection.far.sendall(b"abcdef")
    assert connection.receive(4) == b"abcd"
    assert connection.receive(4) == b"ef"


def test_much_data_arrives_whole(connection: Connection) -> None:
    sent = bytes(range(256)) * (1 << 14)
    parts = [sent[at : at + (256 << 10)] for at in range(0, len(sent), 256 << 10)]
    got = b""
    for part in parts:
        sending = connection.begin_send(part)
        while len(got) % len(part) or len(got) < len(part):
            got += connection.far.recv(1 << 20)
        wait(sending)
        assert got == part
        got = b""


def test_the_host_ends_its_half(connection: Connection) -> None:
    connection.send(b"last")
    connection.send(b"")
    assert connection.far.recv(100) == b"last"
    assert connection.far.recv(100) == b""
    connection.far.sendall(b"still there")
    assert connection.receive() == b"still there"


def test_the_guest_ends_its_half(connection: Connection) -> None:
    connection.far.sendall(b"last")
    connection.far.shutdown(socket.SHUT_WR)
    assert connection.receive() == b"last"
    assert [connection.receive(), connection.receive()] == [b"", b""]
    connection.send(b"still there")
    assert connection.far.recv(100) == b"still there"


def test_a_reset_is_an_end(connection: Connection) -> None:
    reset_after_close = struct.pack("ii", 1, 0)
    connection.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset_after_close)
    connection.far.close()
    assert connection.receive() == b""
    refusal(connection.begin_send(b"more"), Code.UNAVAILABLE)


def test_closing_wakes_who_receives(agent: AgentProcess, connection: Connection) -> None:
    receiving = connection.begin_receive()
    until(lambda: is_receiving(agent.pid), "nobody receives")
    connection.close()
    assert received(receiving) == b""


def test_closing_wakes_who_sends(connection: Connection) -> None:
    pending = [connection.begin_send(bytes(256 << 10)) for _ in range(64)]
    connection.far.recv(1)
    connection.close()
    codes = {code_of(sending) for sending in pending}
    # Those that came after the close do not know the connection.
    assert Code.UNAVAILABLE in codes
    assert codes <= {Code.OK, Code.UNAVAILABLE, Code.NOT_FOUND}


def test_nothing_is_known_of_it_after_close(connection: Connection) -> None:
    connection.close()
    connection.close()
    assert connection.far.recv(100) == b""
    for call in (connection.begin_receive(), connection.begin_send(b"x")):
        said = refusal(call, Code.NOT_FOUND)
        assert str(connection.number) in said


def test_connections_are_apart(host: Host, listener: socket.socket) -> None:
    first, second = Connection(host, listener), Connection(host, listener)
    assert first.number != second.number
    first.send(b"1")
    second.send(b"2")
    assert (first.far.recv(9), second.far.recv(9)) == (b"1", b"2")
    first.close()
    second.far.sendall(b"still there")
    assert second.receive() == b"still there"
    second.close()
    first.far.close()
    second.far.close()


def test_closed_connections_leave_no_descriptor(host: Host, listener: socket.socket) -> None:
    before = host.agent.descriptors()
    for _ in range(20):
        connection = Connection(host, listener)
        connection.close()
        connection.far.close()
    until(lambda: host.agent.descriptors() <= before + 2, "descriptors are left")


def test_a_port_without_a_listener_is_refused(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = port_of(listener)
    call = host.begin(f"{SERVICE}/Dial", pb.DialRequest(port=port))
    said = refusal(call, Code.UNAVAILABLE)
    assert f"connect to port {port}: 127.0.0.1: " in said
    assert "::1: " in said
    assert "refused" in said.lower()


@pytest.mark.parametrize("port", [0, 65536, (1 << 32) - 1])
def test_what_is_no_port_is_refused(host: Host, port: int) -> None:
    call = host.begin(f"{SERVICE}/Dial", pb.DialRequest(port=port))
    assert f"connect to port {port}: " in refusal(call, Code.UNAVAILABLE)
