"""What a namespace holds becomes what the machine gets: pure, without a kernel."""

from __future__ import annotations

from typing import TypeVar

import pytest

from kata.base import rtnetlink
from kata.base.errors import Code, KataError
from kata.base.rtnetlink import AF_INET, AF_INET6, Address, Link, Neighbour, Route
from kata.host.network.plan import CONNECTABLE, Endpoint, Scan, plan_endpoints

LOOPBACK = Link(1, "lo", "", "00:00:00:00:00:00", 65536, rtnetlink.IFF_LOOPBACK)
ETH0 = Link(2, "eth0", "veth", "02:00:00:00:00:01", 1500, rtnetlink.IFF_UP)
ETH1 = Link(3, "eth1", "veth", "02:00:00:00:00:02", 1450, rtnetlink.IFF_UP)
ON_LO = Address(1, AF_INET, "127.0.0.1", 8, 254)
ON_ETH0 = Address(2, AF_INET, "10.0.0.2", 24)
ON_ETH1 = Address(3, AF_INET, "10.1.0.2", 24)
DEFAULT = Route(2, AF_INET, "", "10.0.0.1")
Record = TypeVar("Record")


def changed(record: Record, **changes: object) -> Record:
    return type(record)(**{**vars(record), **changes})


def scan(
    *links: Link,
    addresses: tuple[Address, ...] = (ON_LO, ON_ETH0, ON_ETH1),
    routes: tuple[Route, ...] = (),
    neighbours: tuple[Neighbour, ...] = (),
) -> Scan:
    return Scan((LOOPBACK, *links), addresses, routes, neighbours)


def plan_one(found: Scan, model: str = "tcfilter") -> Endpoint:
    (endpoint,) = plan_endpoints(found, model)
    return endpoint


def refusal(found: Scan) -> str:
    with pytest.raises(KataError) as caught:
        plan_endpoints(found, "tcfilter")
    assert caught.value.code == Code.INVALID_ARGUMENT
    return str(caught.value)


def test_links_keep_their_order() -> None:
    assert [item.link for item in plan_endpoints(scan(ETH0, ETH1), "tcfilter")] == [ETH0, ETH1]


def test_loopback_and_links_without_an_address_are_left_out() -> None:
    assert plan_endpoints(scan(ETH0, ETH1, addresses=(ON_LO,)), "tcfilter") == ()
    only = scan(ETH0, ETH1, addresses=(ON_LO, ON_ETH1))
    assert plan_one(only).link == ETH1


def test_a_link_with_nothing_but_a_link_local_address_is_left_out() -> None:
    local = Address(2, AF_INET6, "fe80::1", 64, rtnetlink.RT_SCOPE_LINK)
    assert plan_endpoints(scan(ETH0, addresses=(local,)), "tcfilter") == ()


def test_what_no_machine_can_have_is_of_no_matter_without_an_address() -> None:
    sit = Link(9, "sit0", "sit", "", 1480, 0)
    assert plan_endpoints(scan(sit, changed(ETH0, mtu=0), addresses=()), "x") == ()


def test_addresses_are_the_links_own_without_the_link_local() -> None:
    six = Address(2, AF_INET6, "fd00::2", 64)
    local = Address(2, AF_INET6, "fe80::1", 64, rtnetlink.RT_SCOPE_LINK)
    found = scan(ETH0, addresses=(ON_LO, ON_ETH0, six, local, ON_ETH1))
    assert plan_one(found).addresses == (ON_ETH0, six)


def test_a_tap_is_kept_without_an_address() -> None:
    tap = Link(5, "tap0", "tun", "02:00:00:00:00:05", 1500, 0)
    endpoint = plan_one(scan(tap), "macvtap")
    assert (endpoint.model, endpoint.addresses) == ("tap", ())


@pytest.mark.parametrize("kind", sorted(CONNECTABLE))
@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_macvtap_is_for_veth_only(kind: str, model: str) -> None:
    endpoint = plan_one(scan(changed(ETH0, kind=kind)), model)
    assert endpoint.model == (model if kind == "veth" else "tcfilter")


@pytest.mark.parametrize(
    ("kind", "named"), [("wireguard", "wireguard"), ("", "hardware"), ("sit", "sit")]
)
def test_a_link_of_another_kind_is_refused_by_its_name(kind: str, named: str) -> None:
    said = refusal(scan(changed(ETH0, kind=kind)))
    assert "connect interface eth0" in said
    assert f"kind {named} cannot" in said
    assert "veth" in said.partition("(")[2]


@pytest.mark.parametrize("mtu", [0, 67, 65536])
def test_an_mtu_out_of_range_is_refused_by_name_and_value(mtu: int) -> None:
    said = refusal(scan(changed(ETH1, mtu=mtu)))
    assert f"connect interface eth1: its mtu is {mtu} " in said
    assert "between 68 and 65535" in said


@pytest.mark.parametrize("mtu", [68, 65535])
def test_the_mtu_s_limits_are_fine(mtu: int) -> None:
    assert plan_one(scan(changed(ETH0, mtu=mtu))).link.mtu == mtu


def test_identical_routes_are_merged() -> None:
    on_link = Route(2, AF_INET, "10.9.0.0/16", scope=rtnetlink.RT_SCOPE_LINK)
    found = scan(ETH0, routes=(DEFAULT, on_link, changed(DEFAULT), on_link))
    assert plan_one(found).routes == (DEFAULT, on_link)


@pytest.mark.parametrize(("family", "text"), [(AF_INET, "10.1.0.1"), (AF_INET6, "fd01::1")])
def test_two_default_routes_of_two_links_are_refused_by_both_names(family: int, text: str) -> None:
    first = Route(2, family, "", text)
    said = refusal(scan(ETH0, ETH1, routes=(first, changed(first, index=3))))
    assert "connect interface eth1: route to default" in said
    assert f"of eth0 via {text}" in said


def test_two_ways_on_one_link_are_refused() -> None:
    said = refusal(scan(ETH0, routes=(DEFAULT, changed(DEFAULT, gateway="10.0.0.9"))))
    assert "via 10.0.0.9" in said
    assert "via 10.0.0.1" in said


def test_default_routes_of_both_families_are_fine() -> None:
    six = Route(2, AF_INET6, "", "fd00::1")
    assert plan_one(scan(ETH0, routes=(DEFAULT, six))).routes == (DEFAULT, six)


def test_a_worse_route_gives_way() -> None:
    """The guest is told no metrics, so the last one would win there."""
    worse = changed(DEFAULT, index=3, gateway="10.1.0.1", metric=100)
    for routes in ((DEFAULT, worse), (worse, DEFAULT)):
        first, second = plan_endpoints(scan(ETH0, ETH1, routes=routes), "tcfilter")
        assert first.routes == (DEFAULT,)
        assert second.routes == ()


@pytest.mark.parametrize(
    "change",
    [{"protocol": rtnetlink.RTPROT_KERNEL}, {"table": 255}, {"kind": 2}, {"index": 7}],
    ids=["of the kernel", "other table", "not unicast", "other link"],
)
def test_routes_that_the_guest_s_kernel_makes_itself_are_left_out(change: dict[str, int]) -> None:
    other = changed(DEFAULT, destination="10.0.0.0/24", **change)
    assert plan_one(scan(ETH0, routes=(DEFAULT, other))).routes == (DEFAULT,)


def test_neighbours_are_the_permanent_ones_and_gateways() -> None:
    mac = "02:00:00:00:00:99"
    reachable = 0x02
    permanent = Neighbour(2, AF_INET, "10.0.0.7", mac, rtnetlink.NUD_PERMANENT)
    gateway = Neighbour(2, AF_INET, "10.0.0.1", mac, reachable)
    others = (
        Neighbour(2, AF_INET, "10.0.0.8", mac, reachable),
        Neighbour(2, AF_INET, "10.0.0.9", "", rtnetlink.NUD_PERMANENT),
        Neighbour(3, AF_INET, "10.0.0.1", mac, reachable),
    )
    found = scan(ETH0, routes=(DEFAULT,), neighbours=(permanent, gateway, *others))
    assert plan_one(found).neighbours == (permanent, gateway)
