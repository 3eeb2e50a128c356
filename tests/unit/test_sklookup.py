"""One listener catches all loopback ports of a namespace."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.network import sklookup
from tests.support.netns import Netns, making_namespaces

PORTS = (1, 80, 8080, 65535)
LOOPBACKS = ("127.0.0.1", "127.9.8.7", "::1")


@pytest.fixture
def netns() -> Iterator[Netns]:
    with making_namespaces() as make:
        netns = make()
        netns.ip(
            "link add eth0 type veth peer name peer",
            "address add 10.0.0.2/24 dev eth0",
            "address add fd00::2/64 dev eth0 nodad",
            "link set eth0 up",
            "link set peer up",
        )
        yield netns


@pytest.fixture
def listener(netns: Netns) -> Iterator[socket.socket]:
    with netns.run(lambda: listen("::", 0)) as made:
        yield made


@pytest.fixture
def link_fd(netns: Netns, listener: socket.socket) -> Iterator[int]:
    fd = catch(netns, listener)
    yield fd
    if is_open(fd):
        os.close(fd)


def listen(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    if address == "::":
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    made.settimeout(10)
    made.bind((address, port))
    made.listen()
    return made


def catch(netns: Netns, listener: socket.socket) -> int:
    netns_fd = os.open(netns.path, os.O_RDONLY)
    try:
        return sklookup.catch_loopback(listener.fileno(), netns_fd)
    finally:
        os.close(netns_fd)


def descriptors() -> int:
    """Return how many descriptors of programs, maps and links this process has."""
    found = 0
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed by another test's thread
            found += "bpf" in os.readlink(path)
    return found


def dial(netns: Netns, address: str, port: int) -> socket.socket:
    return netns.run(lambda: socket.create_connection((address, port), 10))


def is_open(fd: int) -> bool:
    return Path(f"/proc/self/fd/{fd}").exists()


def is_refused(netns: Netns, address: str, port: int) -> bool:
    try:
        dial(netns, address, port).close()
    except ConnectionRefusedError:
        return True
    return False


@pytest.mark.usefixtures("link_fd")
@pytest.mark.parametrize("address", LOOPBACKS)
@pytest.mark.parametrize("port", PORTS)
def test_any_loopback_port_is_caught(
    netns: Netns, listener: socket.socket, address: str, port: int
) -> None:
    with dial(netns, address, port) as client:
        accepted, _ = listener.accept()
        with accepted:
            host, told, *_ = accepted.getsockname()
            assert (host.removeprefix("::ffff:"), told) == (address, port)
            client.sendall(b"question")
            assert accepted.recv(100) == b"question"
            accepted.sendall(b"answer")
            assert client.recv(100) == b"answer"


@pytest.mark.usefixtures("link_fd")
@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_other_addresses_are_not_caught(netns: Netns, address: str) -> None:
    assert is_refused(netns, address, 8080)


@pytest.mark.usefixtures("link_fd")
def test_who_listens_on_another_address_is_left_alone(netns: Netns) -> None:
    with netns.run(lambda: listen("10.0.0.2", 8080)) as other:
        with dial(netns, "10.0.0.2", 8080):
            other.accept()[0].close()


@pytest.mark.usefixtures("link_fd")
def test_datagrams_are_left_alone(netns: Netns) -> None:
    def exchange() -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(10)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"datagram", receiver.getsockname())
            return receiver.recv(100)

    assert netns.run(exchange) == b"datagram"


@pytest.mark.usefixtures("link_fd")
def test_other_namespaces_are_left_alone() -> None:
    with making_namespaces() as make:
        assert is_refused(make(), "127.0.0.1", 8080)


@pytest.mark.parametrize("address", LOOPBACKS)
def test_closing_the_link_ends_it(netns: Netns, link_fd: int, address: str) -> None:
    dial(netns, address, 8080).close()
    os.close(link_fd)
    assert is_refused(netns, address, 8080)


@pytest.mark.usefixtures("link_fd")
def test_a_closed_listener_refuses(netns: Netns, listener: socket.socket) -> None:
    listener.close()
    assert is_refused(netns, "127.0.0.1", 8080)


def test_no_descriptor_is_left(netns: Netns, listener: socket.socket) -> None:
    fd = catch(netns, listener)
    assert descriptors() == 1
    os.close(fd)
    assert descriptors() == 0


def test_a_failure_is_named_and_leaves_nothing(netns: Netns, listener: socket.socket) -> None:
    listener.close()
    with socket.socket(socket.AF_UNIX) as other:
        with pytest.raises(KataError, match="catch loopback connections: bpf: ") as caught:
            catch(netns, other)
        assert caught.value.code == Code.UNIMPLEMENTED
        assert descriptors() == 0
