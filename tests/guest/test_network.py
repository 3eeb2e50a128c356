"""The guest's network on a real kernel, in a namespace of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from kata.base.errors import Code, KataError
from kata.base.rtnetlink import Link, Rtnetlink
from kata.guest import network
from kata.rpc.pb import types_pb2 as pb
from tests.support.netns import Netns, making_namespaces

MAC0, MAC1 = "02:00:00:00:0a:01", "02:00:00:00:0b:01"
Result = TypeVar("Result")


@pytest.fixture
def netns() -> Iterator[Netns]:
    """A namespace with two cards, as the kernel names them in the order it finds them."""
    with making_namespaces() as make:
        netns = make()
        for name, mac in (("eth0", MAC0), ("eth1", MAC1)):
            netns.ip(f"link add {name} type veth peer name peer-{name}")
            netns.ip(f"link set {name} address {mac}", f"link set peer-{name} up")
        yield netns


def v4(address: str, mask: str = "24") -> pb.IPAddress:
    return pb.IPAddress(family=pb.v4, address=address, mask=mask)


def v6(address: str, mask: str = "64") -> pb.IPAddress:
    return pb.IPAddress(family=pb.v6, address=address, mask=mask)


def interface(*addresses: pb.IPAddress, **more: Any) -> pb.Interface:
    fields = {"device": "eth0", "name": "eth0", "mtu": 1500, "hwAddr": MAC0, **more}
    return pb.Interface(IPAddresses=addresses, **fields)


def update(netns: Netns, request: pb.Interface) -> pb.Interface:
    loaded: list[str] = []
    answer = netns.run(lambda: network.update_interface(request, loaded.append, 0.2))
    assert loaded == ["virtio_net"]
    return answer


def route(dest: str = "", gateway: str = "", **more: Any) -> pb.Route:
    fields = {"family": pb.v6 if ":" in dest + gateway else pb.v4, "device": "eth0", **more}
    return pb.Route(dest=dest, gateway=gateway, **fields)


def routes(netns: Netns, *wanted: pb.Route) -> set[tuple[str, str, str]]:
    """Replace the routes; returns destination, gateway and link of those not the kernel's."""
    netns.run(lambda: network.update_routes(wanted))
    found = netns.ask("ip", "route") + netns.ask("ip", "-6 route")
    return {
        (item["dst"], item.get("gateway", ""), item["dev"])
        for item in found
        if item.get("protocol") != "kernel"
    }


def addresses(netns: Netns, name: str = "eth0") -> set[str]:
    (link,) = netns.ask("ip", f"address show dev {name}")
    return {
        f"{item['local']}/{item['prefixlen']}"
        for item in link["addr_info"]
        if item["scope"] != "link"
    }


def refusal(function: Callable[[], object], code: int = Code.INVALID_ARGUMENT) -> str:
    with pytest.raises(KataError) as caught:
        function()
    assert caught.value.code == code, caught.value
    return caught.value.message


@pytest.fixture
def configured(netns: Netns) -> Netns:
    update(netns, interface(v4("10.0.0.2"), v6("fd00::2")))
    update(netns, interface(v4("10.1.0.2"), name="eth1", hwAddr=MAC1))
    return netns


def test_an_interface_is_found_by_its_hardware_address(netns: Netns) -> None:
    answer = update(netns, interface(v4("10.0.0.2"), hwAddr=MAC1.upper(), name="net1", mtu=1400))
    link = netns.link("net1")
    assert link
    assert (link["address"], link["mtu"]) == (MAC1, 1400)
    assert "UP" in link["flags"]
    assert (answer.name, answer.hwAddr, answer.mtu) == ("net1", MAC1, 1400)
    assert v4("10.0.0.2") in answer.IPAddresses
    assert netns.link("eth1") is None


def test_names_are_swapped(netns: Netns) -> None:
    update(netns, interface(v4("10.0.0.2"), v6("fd00::2"), name="eth1", hwAddr=MAC0))
    update(netns, interface(v4("10.1.0.2"), v6("fd01::2"), name="eth0", hwAddr=MAC1))
    first, second = netns.link("eth0"), netns.link("eth1")
    assert first
    assert second
    assert (first["address"], second["address"]) == (MAC1, MAC0)
    assert addresses(netns, "eth0") == {"10.1.0.2/24", "fd01::2/64"}
    assert addresses(netns, "eth1") == {"10.0.0.2/24", "fd00::2/64"}


def test_a_card_that_appears_meanwhile_takes_no_name(
    netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel gave it the name between the look for who has it and the rename."""
    links = Rtnetlink.links
    looks = 0

    def look(netlink: Rtnetlink) -> list[Link]:
        nonlocal looks
        looks += 1
        # The first look is for the hardware address, the second for who has the name.
        return [link for link in links(netlink) if looks != 2 or link.name != "eth1"]

    monkeypatch.setattr(Rtnetlink, "links", look)
    assert update(netns, interface(v4("10.0.0.2"), name="eth1", hwAddr=MAC0)).name == "eth1"
    assert looks > 2
    names = {item["address"]: item["ifname"] for item in netns.ask("ip", "link")}
    assert (names[MAC0], names[MAC1]) == ("eth1", "eth0")


def test_an_unknown_hardware_address_is_not_found(netns: Netns) -> None:
    unknown = "02:00:00:00:ff:01"
    said = refusal(lambda: update(netns, interface(hwAddr=unknown)), Code.NOT_FOUND)
    assert unknown in said
    assert "0.2 s" in said


def test_addresses_become_exactly_those_of_the_host(netns: Netns) -> None:
    update(netns, interface(v4("10.0.0.2"), v4("10.9.0.2", "16"), v6("fd00::2"), v6("fd00::3")))
    assert addresses(netns) == {"10.0.0.2/24", "10.9.0.2/16", "fd00::2/64", "fd00::3/64"}
    update(netns, interface(v4("10.9.0.2", "16"), v6("fd00:0::3"), v6("fd09::1", "128")))
    assert addresses(netns) == {"10.9.0.2/16", "fd00::3/64", "fd09::1/128"}
    update(netns, interface(v4("10.9.0.2", "24")))
    assert addresses(netns) == {"10.9.0.2/24"}


def test_a_second_address_of_a_network_outlives_the_first(netns: Netns) -> None:
    """The kernel removes the secondary addresses of a network with its primary one."""
    update(netns, interface(v4("10.0.0.2"), v4("10.0.0.3"), v4("10.0.0.4")))
    update(netns, interface(v4("10.0.0.4")))
    assert addresses(netns) == {"10.0.0.4/24"}


def test_ipv6_addresses_can_be_used_at_once(netns: Netns) -> None:
    update(netns, interface(v6("fd00::2")))
    (link,) = netns.ask("ip", "-6 address show dev eth0 to fd00::2")
    (address,) = [item for item in link["addr_info"] if item.get("local") == "fd00::2"]
    assert "tentative" not in address


def test_interfaces_are_listed_without_the_loopback(configured: Netns) -> None:
    found = {item.name: item for item in configured.run(network.list_interfaces)}
    assert set(found) == {"eth0", "eth1", "peer-eth0", "peer-eth1"}
    assert (found["eth0"].hwAddr, found["eth0"].type) == (MAC0, "veth")
    assert v6("fd00::2") in found["eth0"].IPAddresses


def test_arp_can_be_left_out(netns: Netns) -> None:
    answer = update(netns, interface(v4("10.0.0.2"), raw_flags=0x80))
    link = netns.link("eth0")
    assert link
    assert "NOARP" in link["flags"]
    assert answer.raw_flags == 0x80


def test_routes_of_both_families(configured: Netns) -> None:
    found = routes(
        configured,
        # What needs a gateway comes first: order is not the host's business.
        route(gateway="10.0.0.1"),
        route(gateway="fd00::1"),
        route("10.20.0.0/16", "10.8.8.8"),
        route("10.8.8.8", scope=253),
        route("fd20::/32", "fd00::9"),
        route("fd30::/32"),
        route("10.30.0.0/16", device="eth1", source="10.1.0.2", mtu=1300),
    )
    assert found == {
        ("default", "10.0.0.1", "eth0"),
        ("default", "fd00::1", "eth0"),
        ("10.20.0.0/16", "10.8.8.8", "eth0"),
        ("10.8.8.8", "", "eth0"),
        ("fd20::/32", "fd00::9", "eth0"),
        ("fd30::/32", "", "eth0"),
        ("10.30.0.0/16", "", "eth1"),
    }
    (special,) = configured.ask("ip", "route show 10.30.0.0/16")
    assert special["prefsrc"] == "10.1.0.2"
    assert special["metrics"] == [{"mtu": 1300}]


def test_routes_are_replaced(configured: Netns) -> None:
    routes(configured, route(gateway="10.0.0.1"), route("fd30::/32"), route("10.5.0.0/16"))
    found = routes(configured, route(gateway="10.0.0.9"), route("10.5.0.0/16"))
    assert found == {("default", "10.0.0.9", "eth0"), ("10.5.0.0/16", "", "eth0")}
    assert routes(configured) == set()
    kernels = {item["dst"] for item in configured.ask("ip", "route")}
    assert kernels == {"10.0.0.0/24", "10.1.0.0/24"}


@pytest.mark.parametrize("dest", ["", "default", "0.0.0.0/0"])
def test_a_route_may_come_twice(configured: Netns, dest: str) -> None:
    twice = route(dest, "10.0.0.1")
    six = route("::/0", "fd00::1")
    assert routes(configured, twice, six, twice, six) == {
        ("default", "10.0.0.1", "eth0"),
        ("default", "fd00::1", "eth0"),
    }


def test_a_gateway_outside_of_all_networks_is_on_the_link(configured: Netns) -> None:
    """What Calico gives its pods."""
    found = routes(
        configured, route(gateway="169.254.1.1"), route("169.254.1.1", scope=253, flags=0)
    )
    assert found == {("169.254.1.1", "", "eth0"), ("default", "169.254.1.1", "eth0")}
    assert routes(configured, route(gateway="169.254.7.7", flags=4)) == {
        ("default", "169.254.7.7", "eth0")
    }


def test_routes_are_listed_with_the_kernels(configured: Netns) -> None:
    answer = configured.run(lambda: network.update_routes([route(gateway="10.0.0.1")]))
    assert list(answer) == list(configured.run(network.list_routes))
    assert route(gateway="10.0.0.1") in answer
    assert ("10.1.0.0/24", "eth1") in {(item.dest, item.device) for item in answer}


def test_a_route_to_nowhere_is_refused_with_the_kernels_words(configured: Netns) -> None:
    said = refusal(lambda: routes(configured, route("10.7.0.0/16", "10.99.0.1")))
    assert "add route 10.7.0.0/16 via 10.99.0.1: " in said
    assert "gateway" in said.lower()


def test_a_route_on_an_unknown_link_is_not_found_and_changes_nothing(configured: Netns) -> None:
    there = routes(configured, route(gateway="10.0.0.1"))
    bad = (route("10.5.0.0/16"), route("10.6.0.0/16", device="eth7"))
    assert "eth7" in refusal(lambda: routes(configured, *bad), Code.NOT_FOUND)
    found = {(item["dst"], item.get("gateway", "")) for item in configured.ask("ip", "route")}
    assert {item[:2] for item in there} < found


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"IPAddresses": [v4("10.0.0.256")]}, "address", "10.0.0.256"),
        ({"IPAddresses": [v4("fd00::1")]}, "address", "fd00::1"),
        ({"IPAddresses": [v6("10.0.0.1")]}, "address", "10.0.0.1"),
        ({"IPAddresses": [v4("")]}, "address", "''"),
        ({"IPAddresses": [v4("10.0.0.1", "33")]}, "mask", "33"),
        ({"IPAddresses": [v4("10.0.0.1", "255.255.255.0")]}, "mask", "255.255.255.0"),
        ({"IPAddresses": [v4("10.0.0.1", "")]}, "mask", "''"),
        ({"IPAddresses": [v6("fd00::1", "129")]}, "mask", "129"),
        ({"hwAddr": "02:00:00:00:00"}, "hwAddr", "02:00:00:00:00"),
        ({"hwAddr": "02:00:00:00:00:zz"}, "hwAddr", "02:00:00:00:00:zz"),
        ({"hwAddr": ""}, "hwAddr", "''"),
        ({"mtu": 0}, "mtu", "0"),
        ({"mtu": 67}, "mtu", "67"),
        ({"mtu": 65536}, "mtu", "65536"),
        ({"name": ""}, "name", "''"),
        ({"name": "a" * 16}, "name", "a" * 16),
        ({"name": "a/b"}, "name", "a/b"),
        ({"name": "a b"}, "name", "a b"),
        ({"name": ".."}, "name", ".."),
        ({"name": "a:b"}, "name", "a:b"),
        ({"name": "a\0b"}, "name", "a"),
    ],
)
def test_a_bad_field_is_named_with_its_value(
    netns: Netns, change: dict[str, Any], field: str, value: str
) -> None:
    fields = {"device": "eth0", "name": "eth0", "mtu": 1500, "hwAddr": MAC0, **change}
    said = refusal(
        lambda: netns.run(lambda: network.update_interface(pb.Interface(**fields), print, 0.2))
    )
    assert f"bad {field} " in said
    assert value in said.partition(f"bad {field} ")[2]
    assert addresses(netns) == set()


@pytest.mark.parametrize(
    ("bad", "field", "value"),
    [
        (route("10.0.0.0/33"), "dest", "10.0.0.0/33"),
        (route("10.0.0.0/x"), "dest", "10.0.0.0/x"),
        (route("10.0.0/24"), "dest", "10.0.0/24"),
        (route("fd00::/129"), "dest", "fd00::/129"),
        (route("10.5.0.0/16", "fd00::1", family=pb.v4), "gateway", "fd00::1"),
        (route("10.5.0.0/16", source="x"), "source", "x"),
    ],
)
def test_a_bad_route_is_named(netns: Netns, bad: pb.Route, field: str, value: str) -> None:
    said = refusal(lambda: routes(netns, bad))
    assert f"route {bad.dest}: bad {field} {value!r}" in said


def test_what_the_kernel_refuses_is_named(configured: Netns) -> None:
    # IPv6 needs an MTU of 1280 (RFC 8200).
    said = refusal(lambda: update(configured, interface(v6("fd00::2"), mtu=1000)))
    assert f"configure interface eth0 ({MAC0}): " in said
    unspecified = [pb.ARPNeighbor(toIPAddress=v6("::"), device="eth0", lladdr=MAC1, state=1)]
    said = refusal(lambda: configured.run(lambda: network.add_neighbours(unspecified)))
    assert "add neighbour :: on eth0: " in said


def test_neighbours(configured: Netns) -> None:
    mac = "02:00:00:00:00:99"
    wanted = [
        pb.ARPNeighbor(toIPAddress=address, device="eth0", lladdr=mac.upper())
        for address in (v4("10.0.0.1", ""), v6("fd00::1", ""))
    ]
    for _ in range(2):
        configured.run(lambda: network.add_neighbours(wanted))
    found = configured.ask("ip", "neigh") + configured.ask("ip", "-6 neigh")
    there = {(item["dst"], item["dev"], item["lladdr"], *item["state"]) for item in found}
    assert there >= {(ip, "eth0", mac, "PERMANENT") for ip in ("10.0.0.1", "fd00::1")}


def test_bad_neighbours(configured: Netns) -> None:
    def add(**change: Any) -> None:
        fields = {"toIPAddress": v4("10.0.0.1"), "device": "eth0", "lladdr": MAC1, **change}
        configured.run(lambda: network.add_neighbours([pb.ARPNeighbor(**fields)]))

    assert "eth7" in refusal(lambda: add(device="eth7"), Code.NOT_FOUND)
    assert "bad address 'x'" in refusal(lambda: add(toIPAddress=v4("x")))
    said = refusal(lambda: add(lladdr="02:00"))
    assert "eth0: bad" in said
    assert "'02:00'" in said
