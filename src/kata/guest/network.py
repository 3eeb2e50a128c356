"""The guest's network, as the host describes that of the pod."""

from __future__ import annotations

import _socket

from kata.base import rtnetlink
from kata.base.errors import Code, KataError
from kata.base.rtnetlink import (
    AF_INET,
    AF_INET6,
    Address,
    Link,
    Neighbour,
    Route,
    Rtnetlink,
    attribute,
)
from kata.guest.ports import Uevents
from kata.rpc.pb import types_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

# Upstream's limit for hot-plug is 3 s on real hardware; emulation is slower.
TIMEOUT_S = 20.0
MTU_MIN, MTU_MAX = 68, 65535
_FAMILIES = {types_pb2.v4: AF_INET, types_pb2.v6: AF_INET6}
_SCRATCH_NAME = "kata-swap"
# More cards do not appear while one gets its name.
_RENAMES = 8


def update_interface(
    request: types_pb2.Interface, load_module: Callable[[str], None], timeout_s: float = TIMEOUT_S
) -> types_pb2.Interface:
    """Find the link by its hardware address and make it what the host says.

    Raises INVALID_ARGUMENT for a bad field, NOT_FOUND when no such link appears.
    """
    addresses = [_parse_address(item) for item in request.IPAddresses]
    if not MTU_MIN <= request.mtu <= MTU_MAX:
        raise _bad(request.name, "mtu", request.mtu)
    if not _is_link_name(request.name):
        raise _bad(request.name, "name", request.name)
    mac = _parse_mac(request.name, request.hwAddr)
    load_module("virtio_net")
    with Rtnetlink() as netlink:
        link = _wait_for_link(netlink, mac, timeout_s)
        try:
            _configure(netlink, link, request, addresses)
        except OSError as error:
            raise KataError(
                f"configure interface {request.name} ({mac}): {error.strerror}",
                Code.INVALID_ARGUMENT,
            ) from error
        return _describe(netlink, next(li for li in netlink.links() if li.index == link.index))


def list_interfaces() -> list[types_pb2.Interface]:
    """Return all links but the loopback."""
    with Rtnetlink() as netlink:
        return [
            _describe(netlink, link)
            for link in netlink.links()
            if not link.flags & rtnetlink.IFF_LOOPBACK
        ]


def update_routes(wanted: Iterable[types_pb2.Route]) -> list[types_pb2.Route]:
    """Replace the routes of the main table that the kernel did not make; returns all of it."""
    with Rtnetlink() as netlink:
        indexes = {link.name: link.index for link in netlink.links()}
        routes = [_parse_route(item, indexes) for item in wanted]
        for route in _list_own(netlink):
            netlink.delete_route(route)
        # A gateway must be reachable before a route through it can be added.
        for route in sorted(routes, key=lambda route: bool(route.gateway)):
            try:
                netlink.add_route(route)
            except OSError as error:
                raise KataError(
                    f"add route {route.destination or 'default'} via {route.gateway or 'link'}:"
                    f" {error.strerror}",
                    Code.INVALID_ARGUMENT,
                ) from error
    return list_routes()


def list_routes() -> list[types_pb2.Route]:
    """Return the main table."""
    with Rtnetlink() as netlink:
        names = {link.index: link.name for link in netlink.links()}
        return [
            _render_route(route, names)
            for route in netlink.routes()
            if route.table == rtnetlink.RT_TABLE_MAIN and route.kind == rtnetlink.RTN_UNICAST
        ]


def add_neighbours(wanted: Iterable[types_pb2.ARPNeighbor]) -> None:
    """Add neighbours, or change those that are there."""
    with Rtnetlink() as netlink:
        indexes = {link.name: link.index for link in netlink.links()}
        for item in wanted:
            family, address, _ = _parse_ip(item.toIPAddress)
            mac = _parse_mac(item.device, item.lladdr)
            index = _find_index(indexes, item.device)
            state = item.state or rtnetlink.NUD_PERMANENT
            neighbour = Neighbour(index, family, address, mac, state, item.flags)
            try:
                netlink.add_neighbour(neighbour)
            except OSError as error:
                raise KataError(
                    f"add neighbour {address} on {item.device}: {error.strerror}",
                    Code.INVALID_ARGUMENT,
                ) from error


def _wait_for_link(netlink: Rtnetlink, mac: str, timeout_s: float) -> Link:
    found: list[Link] = []

    def find() -> str | None:
        found[:] = [link for link in netlink.links() if link.mac == mac]
        return mac if found else None

    uevents = Uevents()
    try:
        uevents.wait_for(find, timeout_s)
    finally:
        uevents.close()
    if not found:
        raise KataError(
            f"update interface: no link has the hardware address {mac} after {timeout_s:g} s",
            Code.NOT_FOUND,
        )
    return found[0]


def _configure(
    netlink: Rtnetlink,
    link: Link,
    request: types_pb2.Interface,
    addresses: list[tuple[int, str, int]],
) -> None:
    _rename(netlink, link, request.name)
    flags = rtnetlink.IFF_UP | request.raw_flags & rtnetlink.IFF_NOARP
    mask = rtnetlink.IFF_UP | rtnetlink.IFF_NOARP
    attributes = attribute(rtnetlink.IFLA_MTU, int(request.mtu))
    netlink.set_link(link.index, attributes, flags=flags, mask=mask)
    _set_addresses(netlink, link.index, addresses)


def _rename(netlink: Rtnetlink, link: Link, name: str) -> None:
    """Give a link its name; a link that has it gets the other's instead.

    A card that appears meanwhile takes the first name of the kernel's that is free just then.
    """
    if link.name == name:
        return
    for attempt in range(_RENAMES):
        holder = next((other for other in netlink.links() if other.name == name), None)
        if holder is not None:
            _set_name(netlink, holder, f"{_SCRATCH_NAME}{holder.index}")
        try:
            _set_name(netlink, link, name)
        except FileExistsError:
            if attempt + 1 == _RENAMES:
                raise
        else:
            break
    if holder is not None:
        try:
            _set_name(netlink, holder, link.name)
        except FileExistsError:
            pass  # it gets another when the host describes it


def _set_name(netlink: Rtnetlink, link: Link, name: str) -> None:
    # Older kernels rename only links that are down.
    netlink.set_link(link.index, mask=rtnetlink.IFF_UP)
    try:
        netlink.set_link(link.index, attribute(rtnetlink.IFLA_IFNAME, name))
    finally:
        if link.flags & rtnetlink.IFF_UP:
            netlink.set_link(link.index, flags=rtnetlink.IFF_UP, mask=rtnetlink.IFF_UP)


def _is_link_name(name: str) -> bool:
    """Return what dev_valid_name() of net/core/dev.c does; a zero byte would end the name early."""
    return (
        0 < len(name.encode()) <= 15
        and name not in (".", "..")
        and not any(letter in "/:\0" or letter.isspace() for letter in name)
    )


def _set_addresses(netlink: Rtnetlink, index: int, wanted: list[tuple[int, str, int]]) -> None:
    # A network's first address takes the others with it, so look again after each that goes.
    while stale := [
        item for key, item in _list_addresses(netlink, index).items() if key not in wanted
    ]:
        netlink.delete_address(stale[0])
    there = _list_addresses(netlink, index)
    for family, address, prefix in wanted:
        # Nobody else can have it, and an address under test cannot be used yet.
        flags = rtnetlink.IFA_F_NODAD if family == AF_INET6 else 0
        if (family, address, prefix) not in there:
            netlink.add_address(Address(index, family, address, prefix, flags=flags))


def _list_addresses(netlink: Rtnetlink, index: int) -> dict[tuple[int, str, int], Address]:
    return {
        (item.family, item.address, item.prefix): item
        for item in netlink.addresses()
        if item.index == index and item.scope != rtnetlink.RT_SCOPE_LINK
    }


def _list_own(netlink: Rtnetlink) -> list[Route]:
    return [
        route
        for route in netlink.routes()
        if route.table == rtnetlink.RT_TABLE_MAIN
        and route.kind == rtnetlink.RTN_UNICAST
        and route.protocol != rtnetlink.RTPROT_KERNEL
    ]


def _parse_route(item: types_pb2.Route, indexes: dict[str, int]) -> Route:
    family = _FAMILIES[item.family]
    dest = "" if item.dest in ("", "default", "0.0.0.0/0", "::/0") else item.dest
    if dest and "/" not in dest:
        dest += "/32" if family == AF_INET else "/128"
    what = f"route {item.dest or 'default'}"
    if dest:
        _check_prefix(what, "dest", family, dest)
    for name, text in (("gateway", item.gateway), ("source", item.source)):
        if text:
            _check_ip(what, name, family, text)
    return Route(
        index=_find_index(indexes, item.device),
        family=family,
        destination=dest,
        gateway=item.gateway,
        source=item.source,
        scope=item.scope,
        flags=item.flags & rtnetlink.RTNH_F_ONLINK,
        mtu=item.mtu,
    )


def _find_index(indexes: dict[str, int], device: str) -> int:
    if device not in indexes:
        raise KataError(f"find interface {device!r}: no such link", Code.NOT_FOUND)
    return indexes[device]


def _parse_address(item: types_pb2.IPAddress) -> tuple[int, str, int]:
    family, address, mask = _parse_ip(item)
    bits = 32 if family == AF_INET else 128
    if not mask.isdecimal() or not 0 <= int(mask) <= bits:
        raise _bad(item.address, "mask", item.mask)
    return family, address, int(mask)


def _parse_ip(item: types_pb2.IPAddress) -> tuple[int, str, str]:
    family = _FAMILIES[item.family]
    return family, _check_ip("address", "address", family, item.address), item.mask


def _check_ip(what: str, field: str, family: int, text: str) -> str:
    try:
        return _socket.inet_ntop(family, _socket.inet_pton(family, text))
    except OSError:
        raise _bad(what, field, text) from None


def _check_prefix(what: str, field: str, family: int, text: str) -> None:
    address, _, bits = text.partition("/")
    try:
        _socket.inet_pton(family, address)
    except OSError:
        raise _bad(what, field, text) from None
    if not bits.isdecimal() or int(bits) > (32 if family == AF_INET else 128):
        raise _bad(what, field, text)


def _parse_mac(name: str, text: str) -> str:
    try:
        return rtnetlink.parse_mac(text).hex(":")
    except ValueError:
        raise _bad(name, "hwAddr", text) from None


def _bad(what: str, field: str, value: object) -> KataError:
    return KataError(f"configure network: {what}: bad {field} {value!r}", Code.INVALID_ARGUMENT)


def _describe(netlink: Rtnetlink, link: Link) -> types_pb2.Interface:
    return types_pb2.Interface(
        device=link.name,
        name=link.name,
        IPAddresses=[
            types_pb2.IPAddress(
                family=types_pb2.v4 if item.family == AF_INET else types_pb2.v6,
                address=item.address,
                mask=str(item.prefix),
            )
            for item in netlink.addresses()
            if item.index == link.index
        ],
        mtu=link.mtu,
        hwAddr=link.mac,
        type=link.kind,
        raw_flags=link.flags & rtnetlink.IFF_NOARP,
    )


def _render_route(route: Route, names: dict[int, str]) -> types_pb2.Route:
    return types_pb2.Route(
        dest=route.destination,
        gateway=route.gateway,
        device=names.get(route.index, ""),
        source=route.source,
        scope=route.scope,
        family=types_pb2.v4 if route.family == AF_INET else types_pb2.v6,
        flags=route.flags,
        mtu=route.mtu,
    )
