"""Links of real namespaces connected to cards: frames cross, and all is taken back."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.host.network.network import Card, NetworkSettings, PodNetwork
from tests.support.netns import Netns, making_namespaces

MAC, OTHER_MAC = "02:00:00:00:0a:01", "02:00:00:00:0b:01"
# For experiments (IEEE 802), so nothing but the test sends it.
# Neighbours of fd00::2 are asked there.
IPV6_GROUP = "33:33:ff:00:00:02"
ETHERTYPE = 0x88B5
VNET_HEADER_BYTES = 10
Connect = Callable[..., PodNetwork]


@dataclass
class Pod:
    """A pod's namespace, and the one where its links' other ends are."""

    inside: Netns
    outside: Netns

    def add_veth(self, name: str = "eth0", mac: str = MAC, address: str = "10.0.0.2/24") -> None:
        """Add a link whose other end is ``peer-NAME`` outside."""
        self.inside.ip(
            f"link add {name} address {mac} type veth peer name peer-{name}"
            f" netns {self.outside.path}",
            f"address add {address} dev {name}",
            f"link set {name} up",
        )
        self.outside.ip(f"link set peer-{name} up")

    def add_child(self, kind: str) -> None:
        """Add eth0 on one end of a veth outside, whose other end is ``peer-eth0``."""
        self.outside.ip(
            "link add below type veth peer name peer-eth0",
            "link set below up",
            "link set peer-eth0 up",
            f"link add link below name eth0 type {kind}",
            f"link set eth0 netns {self.inside.path}",
        )
        self.inside.ip("address add 10.0.0.2/24 dev eth0", "link set eth0 up")

    def add_bridge(self) -> None:
        """Add a bridge that has an address, with a port whose other end is ``peer-eth0``."""
        self.inside.ip(
            "link add eth0 type bridge",
            f"link add port type veth peer name peer-eth0 netns {self.outside.path}",
            "link set port master eth0 up",
            "address add 10.0.0.2/24 dev eth0",
            "link set eth0 up",
        )
        self.outside.ip("link set peer-eth0 up")

    def add_tap(self, name: str = "tap0") -> None:
        self.inside.ip(f"tuntap add {name} mode tap vnet_hdr", f"link set {name} address {MAC}")

    def taps(self) -> list[str]:
        kinds = ("tun", "macvtap")
        found = self.inside.ask("ip", "-d link")
        return [
            item["ifname"] for item in found if item.get("linkinfo", {}).get("info_kind") in kinds
        ]

    def qdiscs(self, name: str) -> dict[str, dict[str, Any]]:
        """Return a link's queueing disciplines by kind, without the one that means none."""
        found = self.inside.ask("tc", f"qdisc show dev {name}")
        return {item["kind"]: item for item in found if item["kind"] != "noqueue"}


@pytest.fixture
def pod() -> Iterator[Pod]:
    with making_namespaces() as make:
        yield Pod(make(), make())


@pytest.fixture
def connect(pod: Pod) -> Iterator[Connect]:
    """Give a maker of connected networks of the pod, closed in the end."""
    made: list[PodNetwork] = []

    def network(model: str = "tcfilter", rx_bps: int = 0, tx_bps: int = 0) -> PodNetwork:
        made.append(new_network(pod.inside.path, model, rx_bps, tx_bps))
        return made[-1]

    before = descriptors()
    yield network
    for item in made:
        item.close()
        item.close()
    assert descriptors() <= before


def new_network(path: str, model: str = "tcfilter", rx_bps: int = 0, tx_bps: int = 0) -> PodNetwork:
    return PodNetwork(path, NetworkSettings(model, rx_bps, tx_bps), Logger(len))


def descriptors() -> set[tuple[str, str]]:
    """Return what this process has open of taps and namespaces."""
    found = {(path.name, read_link(path)) for path in Path("/proc/self/fd").iterdir()}
    return {item for item in found if item[1].startswith(("/dev/net/tun", "/tap", "net:"))}


def read_link(path: Path) -> str:
    try:
        return os.readlink(path)
    except FileNotFoundError:  # closed by another test's thread
        return ""


def octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def frame(target: str, source: str, text: bytes) -> bytes:
    return octets(target) + octets(source) + ETHERTYPE.to_bytes(2, "big") + text.ljust(50, b".")


def packet_socket(netns: Netns, name: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
        made.bind((name, ETHERTYPE))
        made.settimeout(10)
        return made

    return netns.run(make)


def receive_from_tap(fd: int) -> bytes:
    """Return the next frame of the test, without those that the kernel sends of itself."""
    deadline = time.monotonic() + 10
    while True:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        assert ready, "no frame arrived"
        data = os.read(fd, 70000)
        header, got = data[:VNET_HEADER_BYTES], data[VNET_HEADER_BYTES:]
        if got[12:14] == ETHERTYPE.to_bytes(2, "big"):
            assert header == bytes(VNET_HEADER_BYTES)
            return got


def check_frames(card: Card, peer: socket.socket, peer_mac: str) -> None:
    """Send frames each way; the guest's kernel tells nobody for which groups it listens."""
    sent = []
    for target in (card.mac, "ff:ff:ff:ff:ff:ff", IPV6_GROUP):
        inwards = frame(target, peer_mac, b"to " + card.name.encode())
        peer.send(inwards)
        sent.append(inwards)
        assert receive_from_tap(card.tap_fd) == inwards
    outwards = frame(peer_mac, card.mac, b"from " + card.name.encode())
    os.write(card.tap_fd, bytes(VNET_HEADER_BYTES) + outwards)
    while (got := peer.recv(70000)) in sent:
        pass  # its own
    assert got == outwards


def check_link(pod: Pod, card: Card, name: str = "eth0") -> None:
    link = pod.outside.link(f"peer-{name}")
    assert link
    with packet_socket(pod.outside, f"peer-{name}") as peer:
        check_frames(card, peer, link["address"])


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_frames_cross_a_veth(pod: Pod, connect: Connect, model: str) -> None:
    pod.add_veth()
    (card,) = connect(model).connect()
    assert (card.name, card.mac, card.mtu) == ("eth0", MAC, 1500)
    check_link(pod, card)


@pytest.mark.parametrize("kind", ["macvlan mode bridge", "ipvlan mode l2"])
@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_frames_cross_a_child_of_another_link(
    pod: Pod, connect: Connect, kind: str, model: str
) -> None:
    with without_kind(kind):
        pod.add_child(kind)
    (card,) = connect(model).connect()
    if kind.startswith("macvlan"):
        check_link(pod, card)


def test_frames_cross_a_bridge(pod: Pod, connect: Connect) -> None:
    pod.add_bridge()
    (card,) = connect().connect()
    check_link(pod, card)


def test_a_dummy_is_connected(pod: Pod, connect: Connect) -> None:
    with without_kind("dummy"):
        pod.inside.ip("link add eth0 type dummy")
    pod.inside.ip("address add 10.0.0.2/24 dev eth0", "link set eth0 up")
    (card,) = connect().connect()
    assert card.name == "eth0"


class without_kind:
    """Skip where the kernel has no links of a kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        if error is not None and "Unknown device type" in str(error):
            pytest.skip(f"this kernel has no links of kind {self._kind}")


def test_a_tap_that_somebody_made_is_used(pod: Pod, connect: Connect) -> None:
    pod.add_tap()
    network = connect()
    (card,) = network.connect()
    assert (card.name, card.mac) == ("tap0", MAC)
    with packet_socket(pod.inside, "tap0") as host:
        check_frames(card, host, OTHER_MAC)
    network.close()
    assert pod.taps() == ["tap0"]


def test_several_links_of_several_kinds(pod: Pod, connect: Connect) -> None:
    pod.add_veth("eth0")
    pod.add_veth("eth1", OTHER_MAC, "10.1.0.2/24")
    pod.add_tap()
    pod.inside.ip("link add idle type veth peer name other")
    cards = connect().connect()
    assert [(card.id, card.name) for card in cards] == [
        ("net0", "eth0"),
        ("net1", "eth1"),
        ("net2", "tap0"),
    ]
    check_link(pod, cards[0])
    check_link(pod, cards[1], "eth1")


def test_what_the_guest_is_told(pod: Pod, connect: Connect) -> None:
    pod.add_veth()
    pod.inside.ip(
        "address add fd00::2/64 dev eth0 nodad",
        "link set eth0 mtu 1400",
        "route add 169.254.1.1 dev eth0 scope link",
        "route add default via 169.254.1.1",
        "-6 route add default via fd00::1",
        "route add 10.7.0.0/16 via 10.0.0.1 mtu 1300 src 10.0.0.2",
        "neigh add 10.0.0.1 lladdr 02:00:00:00:00:99 dev eth0",
    )
    network = connect()
    (card,) = network.connect()
    (told,) = network.interfaces({card.id: "02/00"})
    assert (told.name, told.device, told.hwAddr) == ("eth0", "eth0", MAC)
    assert (told.mtu, told.devicePath, told.type) == (1400, "02/00", "veth")
    assert {(item.family, item.address, item.mask) for item in told.IPAddresses} == {
        (0, "10.0.0.2", "24"),
        (1, "fd00::2", "64"),
    }
    routes = {(int(item.family), item.dest, item.gateway): item for item in network.routes()}
    assert set(routes) == {
        (0, "169.254.1.1/32", ""),
        (0, "", "169.254.1.1"),
        (1, "", "fd00::1"),
        (0, "10.7.0.0/16", "10.0.0.1"),
    }
    assert routes[0, "169.254.1.1/32", ""].scope == 253
    far = routes[0, "10.7.0.0/16", "10.0.0.1"]
    assert (far.device, far.mtu, far.source) == ("eth0", 1300, "10.0.0.2")
    (neighbour,) = network.neighbours()
    assert neighbour.toIPAddress.address == "10.0.0.1"
    assert (neighbour.device, neighbour.lladdr, neighbour.state) == (
        "eth0",
        "02:00:00:00:00:99",
        0x80,
    )


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_an_address_that_comes_later_is_found(pod: Pod, connect: Connect, model: str) -> None:
    pod.add_veth()
    network = connect(model)
    network.connect()
    pod.inside.ip("address add 10.0.9.9/24 dev eth0", "route add 10.3.0.0/16 via 10.0.9.1")
    assert network.rescan() == ()
    (interface,) = network.interfaces({})
    assert {item.address for item in interface.IPAddresses} >= {"10.0.0.2", "10.0.9.9"}
    assert "10.3.0.0/16" in {route.dest for route in network.routes()}


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_a_link_that_comes_later_is_found(pod: Pod, connect: Connect, model: str) -> None:
    network = connect(model)
    assert network.connect() == ()
    pod.add_veth()
    (first,) = network.rescan()
    assert network.rescan() == ()
    pod.add_veth("eth1", OTHER_MAC, "10.1.0.2/24")
    (second,) = network.rescan()
    assert (first.name, second.name, second.id) == ("eth0", "eth1", "net1")
    check_link(pod, first)
    check_link(pod, second, "eth1")
    assert len(network.interfaces({})) == 2


def test_the_link_below_a_macvtap_has_no_address(pod: Pod, connect: Connect) -> None:
    """Neither the one that the guest gives itself, by the MAC address that the link had."""
    pod.add_veth()
    pod.inside.ip("address add fd00::2/64 dev eth0 nodad")
    before = list_addresses(pod, "eth0")
    assert len(before) == 3
    network = connect("macvtap")
    network.connect()
    assert list_addresses(pod, "eth0") == list_addresses(pod, "tap0_kata") == set()
    network.close()
    assert list_addresses(pod, "eth0") == before


def list_addresses(pod: Pod, name: str) -> set[str]:
    (link,) = pod.inside.ask("ip", f"address show dev {name}")
    return {item["local"] for item in link["addr_info"]}


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_closing_takes_everything_back(pod: Pod, connect: Connect, model: str) -> None:
    pod.add_veth()
    # A network's first address takes the second with it when it goes.
    pod.inside.ip(
        "address add 10.0.0.3/24 dev eth0",
        "address add 10.9.0.1 peer 10.9.0.2 dev eth0",
        "address add fd00::2/64 dev eth0 nodad",
    )
    network = connect(model)

    def look() -> Any:
        (link,) = pod.inside.ask("ip", "address show dev eth0")
        given = {
            (item["local"], item["prefixlen"], item.get("address"), item.get("secondary"))
            for item in link["addr_info"]
            if item["scope"] != "link"
        }
        return link["address"], given

    before = look()
    network.connect()
    assert len(pod.taps()) == 1
    network.close()
    network.close()
    assert look() == before
    assert pod.taps() == []
    assert pod.qdiscs("eth0") == {}


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_closing_after_the_namespace_was_deleted(pod: Pod, connect: Connect, model: str) -> None:
    pod.add_veth()
    network = connect(model)
    (card,) = network.connect()
    pod.inside.delete()
    network.close()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(card.tap_fd)


def test_a_tap_goes_with_its_last_descriptor(pod: Pod, connect: Connect) -> None:
    """As when the shim is killed, and then the machine."""
    pod.add_veth()
    network = connect()
    (card,) = network.connect()
    machines = os.dup(card.tap_fd)
    network.close()
    assert len(pod.taps()) == 1
    os.close(machines)
    assert pod.taps() == []


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_nothing_stays_connected_after_a_failure(pod: Pod, connect: Connect, model: str) -> None:
    pod.add_veth()
    pod.inside.ip("tuntap add tun0 mode tun")
    with pytest.raises(KataError, match="connect interface tun0 by tap: "):
        connect(model).connect()
    assert pod.taps() == ["tun0"]
    assert pod.qdiscs("eth0") == {}
    network = connect(model)
    pod.inside.ip("link del tun0")
    (card,) = network.connect()
    pod.add_veth("eth1", OTHER_MAC, "10.1.0.2/24")
    pod.inside.ip("tuntap add tun0 mode tun")
    with pytest.raises(KataError, match="connect interface tun0 by tap: "):
        network.rescan()
    assert [item.name for item in network.interfaces({})] == ["eth0"]
    assert pod.qdiscs("eth1") == {}
    check_link(pod, card)


def test_what_is_no_namespace_is_refused(pod: Pod, connect: Connect, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path, code in (
        (f"{tmp_path}/missing", Code.NOT_FOUND),
        (f"{tmp_path}/file", Code.INVALID_ARGUMENT),
        ("/proc/self/ns/uts", Code.INVALID_ARGUMENT),
        ("/proc/self/ns/net", Code.INVALID_ARGUMENT),
        (f"/proc/{os.getpid()}/ns/net", Code.INVALID_ARGUMENT),
    ):
        network = new_network(path)
        with pytest.raises(KataError, match=path) as caught:
            network.connect()
        assert caught.value.code == code
        network.close()
