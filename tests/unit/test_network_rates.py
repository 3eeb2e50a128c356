"""Rates of a pod's links: set where frames leave, and taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kata.base.log import Logger
from kata.host.network.network import NetworkSettings, PodNetwork
from tests.support.netns import Netns, making_namespaces

RX_BPS, TX_BPS = 8_000_000, 80_000_000
# Its bytes do not fit the 32 bits of the structure that tbf had first.
HUGE_BPS = 40_000_000_000
Connect = Callable[..., PodNetwork]


@pytest.fixture
def netns() -> Iterator[Netns]:
    with making_namespaces() as make:
        yield make()


@pytest.fixture
def log() -> list[bytes]:
    return []


@pytest.fixture
def connect(netns: Netns, log: list[bytes]) -> Iterator[Connect]:
    made: list[PodNetwork] = []

    def connected(model: str, rx_bps: int, tx_bps: int) -> PodNetwork:
        settings = NetworkSettings(model, rx_bps, tx_bps)
        made.append(PodNetwork(netns.path, settings, Logger(log.append)))
        made[-1].connect()
        return made[-1]

    yield connected
    for network in made:
        network.close()


def add_veth(netns: Netns) -> None:
    netns.ip(
        "link add eth0 type veth peer name peer",
        "address add 10.0.0.2/24 dev eth0",
        "link set peer up",
    )


def add_tap(netns: Netns) -> None:
    netns.ip("tuntap add eth0 mode tap vnet_hdr")


def rates(netns: Netns) -> dict[str, int]:
    """Return the bits per second of every link that is limited."""
    return {
        item["dev"]: item["options"]["rate"] * 8
        for item in netns.ask("tc", "qdisc")
        if item["kind"] == "tbf"
    }


def test_both_directions_of_a_redirected_link(netns: Netns, connect: Connect) -> None:
    add_veth(netns)
    network = connect("tcfilter", RX_BPS, TX_BPS)
    assert rates(netns) == {"tap0_kata": RX_BPS, "eth0": TX_BPS}
    network.close()
    network.close()
    assert rates(netns) == {}
    assert {item["kind"] for item in netns.ask("tc", "qdisc")} <= {"noqueue"}


@pytest.mark.parametrize(
    ("rx_bps", "tx_bps", "found"),
    [
        (0, 0, {}),
        (RX_BPS, 0, {"tap0_kata": RX_BPS}),
        (0, TX_BPS, {"eth0": TX_BPS}),
        (HUGE_BPS, 0, {"tap0_kata": HUGE_BPS}),
    ],
)
def test_one_direction(
    netns: Netns, connect: Connect, rx_bps: int, tx_bps: int, found: dict[str, int]
) -> None:
    add_veth(netns)
    connect("tcfilter", rx_bps, tx_bps)
    assert rates(netns) == found


@pytest.mark.parametrize(
    ("add", "model", "found", "direction"),
    [
        (add_veth, "macvtap", {"eth0": TX_BPS}, b'"rx"'),
        (add_tap, "tcfilter", {"eth0": RX_BPS}, b'"tx"'),
    ],
    ids=["macvtap", "tap"],
)
def test_what_cannot_be_limited_is_said(
    netns: Netns,
    log: list[bytes],
    connect: Connect,
    add: Callable[[Netns], None],
    model: str,
    found: dict[str, int],
    direction: bytes,
) -> None:
    add(netns)
    network = connect(model, RX_BPS, TX_BPS)
    assert rates(netns) == found
    (warning,) = [line for line in log if b"rate not limited" in line]
    assert b"warning" in warning
    assert b"eth0" in warning
    assert direction.strip(b'"') in warning
    network.close()
    assert rates(netns) == {}


def test_the_engines_own_limit_stays(netns: Netns, connect: Connect) -> None:
    add_veth(netns)

    def limit() -> None:
        from kata.base.rtnetlink import Rtnetlink
        from kata.host.network import traffic

        with Rtnetlink() as netlink:
            (index,) = [link.index for link in netlink.links() if link.name == "eth0"]
            traffic.limit_rate(netlink, index, TX_BPS)

    netns.run(limit)
    connect("tcfilter", 0, 0).close()
    assert rates(netns) == {"eth0": TX_BPS}
