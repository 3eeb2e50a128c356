"""The kernel's answers: of a real kernel, and those that it seldom gives, over a socketpair."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from kata.base import rtnetlink
from kata.base.rtnetlink import AF_INET, AF_INET6, Route, Rtnetlink, attribute
from tests.support.netns import Netns, making_namespaces

ERROR, DONE = 2, 3
INTERRUPTED = 0x10


@pytest.fixture
def netns() -> Iterator[Netns]:
    with making_namespaces() as make:
        netns = make()
        for number in (0, 1):
            netns.ip(
                f"link add eth{number} type veth peer name peer{number}",
                f"link set peer{number} up",
                f"link set eth{number} up",
                f"address add 10.{number}.0.2/24 dev eth{number}",
                f"address add fd0{number}::2/64 dev eth{number} nodad",
            )
        yield netns


class Kernel:
    """Answers each request with the next of the given lists of datagrams."""

    def __init__(self, *answers: list[list[tuple[int, int, bytes]]]) -> None:
        self.requests: list[bytes] = []
        self.netlink = Rtnetlink()
        self.netlink._socket.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.netlink._socket = ours
        self._thread = threading.Thread(target=self._answer, args=(theirs, answers))
        self._thread.start()

    def _answer(
        self, sock: socket.socket, answers: tuple[list[list[tuple[int, int, bytes]]], ...]
    ) -> None:
        with sock:
            for answer in answers:
                self.requests.append(sock.recv(4096))
                (sequence,) = struct.unpack_from("=I", self.requests[-1], 8)
                stale = message(DONE, 0, b"", sequence - 1)
                for datagram in answer:
                    sock.send(stale + b"".join(message(*part, sequence) for part in datagram))

    def __enter__(self) -> Rtnetlink:
        return self.netlink

    def __exit__(self, *_: object) -> None:
        self.netlink.close()
        self._thread.join(10)


def message(kind: int, flags: int, body: bytes, sequence: int) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def link(index: int) -> tuple[int, int, bytes]:
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + attribute(rtnetlink.IFLA_IFNAME, "eth0")
    return rtnetlink.RTM_NEWLINK, 0, body


def number(value: int) -> bytes:
    return struct.pack("=i", value)


def test_an_answer_in_several_datagrams() -> None:
    answer = [[link(1), link(2)], [link(3)], [(DONE, 0, number(0))]]
    with Kernel(answer) as netlink:
        assert [item.index for item in netlink.links()] == [1, 2, 3]


def test_a_list_that_changed_meanwhile_is_asked_for_again() -> None:
    broken = [[link(1)], [(DONE, INTERRUPTED, number(0))]]
    whole = [[link(1), link(2)], [(DONE, 0, number(0))]]
    kernel = Kernel(broken, broken, whole)
    with kernel as netlink:
        assert [item.index for item in netlink.links()] == [1, 2]
    assert len(kernel.requests) == 3


def test_a_list_that_never_rests_is_an_error() -> None:
    broken = [[(DONE, INTERRUPTED, number(0))]]
    with Kernel(*[broken] * 10) as netlink:
        with pytest.raises(BlockingIOError):
            netlink.links()


def test_a_list_that_fails_at_its_end() -> None:
    with Kernel([[link(1)], [(DONE, 0, number(-errno.ENOBUFS))]]) as netlink:
        with pytest.raises(OSError, match="No buffer space") as caught:
            netlink.links()
    assert caught.value.errno == errno.ENOBUFS


def test_what_the_kernel_says_is_raised(netns: Netns) -> None:
    def add() -> None:
        with Rtnetlink() as netlink:
            index = next(item.index for item in netlink.links() if item.name == "eth0")
            netlink.add_route(Route(index, AF_INET, "10.7.0.0/16", "10.99.0.1"))

    with pytest.raises(OSError, match=r"[Gg]ateway") as caught:
        netns.run(add)
    assert caught.value.errno == errno.ENETUNREACH


def test_a_conversation_outlives_an_error(netns: Netns) -> None:
    def talk() -> list[str]:
        with Rtnetlink() as netlink:
            with pytest.raises(OSError, match="No such device"):
                netlink.delete_link(4711)
            return sorted(item.name for item in netlink.links())

    assert netns.run(talk) == ["eth0", "eth1", "lo", "peer0", "peer1"]


@pytest.mark.parametrize(
    ("family", "command", "gateway"),
    [(AF_INET, "", "10.0.0.1"), (AF_INET6, "-6 ", "fd00::1")],
)
def test_a_route_with_several_ways(netns: Netns, family: int, command: str, gateway: str) -> None:
    other = gateway.replace("10.0", "10.1").replace("fd00", "fd01")
    netns.ip(
        f"{command}route add default nexthop via {gateway} dev eth0 nexthop via {other} dev eth1"
    )

    def look() -> list[Route]:
        with Rtnetlink() as netlink:
            names = {item.index: item.name for item in netlink.links()}
            found = [route for route in netlink.routes() if not route.destination]
            assert [names.get(route.index) for route in found if route.ways > 1] == ["eth0"]
            return [route for route in found if route.family == family and route.ways > 1]

    (route,) = netns.run(look)
    assert (route.gateway, route.ways) == (gateway, 2)


def test_an_address_with_a_peer(netns: Netns) -> None:
    netns.ip("address add 10.9.0.1 peer 10.9.0.2 dev eth0")

    def move() -> None:
        with Rtnetlink() as netlink:
            (found,) = [item for item in netlink.addresses() if item.peer]
            assert (found.address, found.peer, found.prefix) == ("10.9.0.1", "10.9.0.2", 32)
            netlink.delete_address(found)
            assert not [item for item in netlink.addresses() if item.peer]
            netlink.add_address(found)
            assert found in netlink.addresses()

    netns.run(move)


@pytest.mark.parametrize(
    "text", ["", "02:00:00:00:00", "02:00:00:00:00:0", "02:00:00:00:00:00:00", "02-00-00-00-00-00"]
)
def test_what_is_no_hardware_address(text: str) -> None:
    with pytest.raises(ValueError, match="hardware address"):
        rtnetlink.parse_mac(text)


def test_attributes_are_padded_and_read_back() -> None:
    data = attribute(1, b"abc") + attribute(2, "ab") + attribute(3, 7)
    assert len(data) % 4 == 0
    assert rtnetlink.parse_attributes(data) == {1: b"abc", 2: b"ab\0", 3: b"\7\0\0\0"}
    assert rtnetlink.parse_attributes(b"\0\0\0\0") == {}
