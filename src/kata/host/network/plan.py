"""Decide from what a network namespace holds what the machine gets.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kata.base import rtnetlink
from kata.base.errors import Code, KataError
from kata.base.rtnetlink import Address, Link, Neighbour, Route

# Kinds of links that frames can be redirected from and to; "" is hardware.
CONNECTABLE = frozenset({"veth", "macvlan", "ipvlan", "bridge", "dummy", "bond", "vlan", "ipvtap"})
TAP_KINDS = frozenset({"tun"})
_MTU_MIN, _MTU_MAX = 68, 65535


@dataclass(frozen=True, slots=True)
class Scan:
    """What a namespace holds."""

    links: tuple[Link, ...]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A link to connect, with what the guest has to know of it.  ``model`` is how."""

    link: Link
    model: str
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]


def plan_endpoints(scan: Scan, model: str) -> tuple[Endpoint, ...]:
    """Return the links to connect, in the order of their numbers.

    Links without an address are left out but for taps, which somebody made for a machine.  Raises
    INVALID_ARGUMENT for what no guest can be given: an MTU out of range, a link of a kind that
    cannot be connected, two different routes to one destination.
    """
    endpoints = []
    for link in scan.links:
        addresses = tuple(
            item
            for item in scan.addresses
            if item.index == link.index and item.scope != rtnetlink.RT_SCOPE_LINK
        )
        is_tap = link.kind in TAP_KINDS
        if link.flags & rtnetlink.IFF_LOOPBACK or not (addresses or is_tap):
            continue
        _check_link(link)
        endpoints.append(
            Endpoint(
                link,
                _choose_model(link, model),
                addresses,
                _plan_routes(link, scan.routes),
                _plan_neighbours(link, scan),
            )
        )
    _check_routes(endpoints)
    return tuple(endpoints)


def add_to(known: Endpoint, more: Endpoint) -> Endpoint:
    """Return what is known of a link with what else is known of it by now."""
    return replace(
        known,
        addresses=tuple(dict.fromkeys((*known.addresses, *more.addresses))),
        routes=tuple(dict.fromkeys((*known.routes, *more.routes))),
        neighbours=tuple(dict.fromkeys((*known.neighbours, *more.neighbours))),
    )


def _check_link(link: Link) -> None:
    if not _MTU_MIN <= link.mtu <= _MTU_MAX:
        raise KataError(
            f"connect interface {link.name}: its mtu is {link.mtu}",
            Code.INVALID_ARGUMENT,
            f"set mtu between {_MTU_MIN} and {_MTU_MAX} in the CNI configuration",
        )
    if link.kind not in CONNECTABLE | TAP_KINDS:
        kind = link.kind or "hardware"
        raise KataError(
            f"connect interface {link.name}: links of kind {kind} cannot be connected to a virtual"
            " machine",
            Code.INVALID_ARGUMENT,
            f"use a plug-in that makes one of {', '.join(sorted(CONNECTABLE))}",
        )


def _choose_model(link: Link, model: str) -> str:
    if link.kind in TAP_KINDS:
        return "tap"
    # The others have no MAC address of their own that a macvtap could stand for.
    return model if link.kind == "veth" else "tcfilter"


def _plan_routes(link: Link, routes: Sequence[Route]) -> tuple[Route, ...]:
    """Return a link's routes without those that the guest's kernel makes itself.

    Of routes to one destination the one with the lowest metric is left, which is the one in use:
    the guest is told no metrics, and there they would replace each other.
    """
    made = [
        route
        for route in routes
        if route.table == rtnetlink.RT_TABLE_MAIN
        and route.kind == rtnetlink.RTN_UNICAST
        and route.protocol != rtnetlink.RTPROT_KERNEL
    ]
    best: dict[tuple[int, str], int] = {}
    for route in made:
        key = route.family, route.destination
        best[key] = min(route.metric, best.get(key, route.metric))
    wanted = []
    for route in made:
        in_use = route.metric == best[route.family, route.destination]
        if route.index == link.index and in_use and route not in wanted:
            wanted.append(route)
    return tuple(wanted)


def _plan_neighbours(link: Link, scan: Scan) -> tuple[Neighbour, ...]:
    gateways = {route.gateway for route in scan.routes if route.index == link.index} - {""}
    return tuple(
        item
        for item in scan.neighbours
        if item.index == link.index
        and item.mac
        and (item.state & rtnetlink.NUD_PERMANENT or item.address in gateways)
    )


def _check_routes(endpoints: Sequence[Endpoint]) -> None:
    seen: dict[tuple[int, str], tuple[str, str]] = {}
    for endpoint in endpoints:
        for route in endpoint.routes:
            key = route.family, route.destination
            way = endpoint.link.name, route.gateway
            if seen.setdefault(key, way) != way:
                name, gateway = seen[key]
                raise KataError(
                    f"connect interface {way[0]}: route to {route.destination or 'default'} via"
                    f" {way[1] or 'link'} is also one of {name} via {gateway or 'link'}",
                    Code.INVALID_ARGUMENT,
                    "leave one of them out of the CNI configuration",
                )
