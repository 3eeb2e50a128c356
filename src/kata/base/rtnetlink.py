"""Links, addresses, routes and neighbours of a network namespace, by rtnetlink(7).

A small client for both sides: it asks, waits for the answer, and turns what the kernel says into
records.  A socket belongs to the namespace in which it was made.
"""

from __future__ import annotations

import _socket
import os
import struct

from kata.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

NETLINK_ROUTE = 0
_SOL_NETLINK, _NETLINK_EXT_ACK = 270, 11
AF_UNSPEC, AF_INET, AF_INET6 = 0, _socket.AF_INET, _socket.AF_INET6

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR, _NLM_F_CAPPED = 0x10, 0x100
_DUMP_TRIES = 10
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30

IFF_UP, IFF_LOOPBACK, IFF_NOARP, IFF_ALLMULTI = 0x1, 0x8, 0x80, 0x200
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_LINKINFO = 1, 3, 4, 5, 18
IFLA_INFO_KIND, IFLA_INFO_DATA = 1, 2
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_METRICS = 1, 4, 5, 6, 7, 8
_RTA_MULTIPATH, _RTA_TABLE, _RTAX_MTU = 9, 15, 2
RT_TABLE_MAIN, RTPROT_KERNEL, RTPROT_BOOT, RTPROT_STATIC, RTPROT_RA = 254, 2, 3, 4, 9
RTN_UNICAST, RT_SCOPE_UNIVERSE, RT_SCOPE_LINK, RTNH_F_ONLINK = 1, 0, 253, 4
_NDA_DST, _NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80

_IFINFO, _IFADDR, _RTMSG, _NDMSG = "=BxHiII", "=BBBBi", "=BBBBBBBBI", "=BxxxiHBB"
_RECEIVE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface.  ``kind`` is the driver's name (veth, macvlan ...), "" for hardware."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    parent: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link, as text, with the length of its network's prefix in bits.

    ``peer`` is the other end's address, which the prefix then is of; empty for a common network.
    """

    index: int
    family: int
    address: str
    prefix: int
    scope: int = 0
    flags: int = 0
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """A route; ``destination`` is ``address/bits`` and empty for the default route.

    ``ways`` counts its next hops, of which ``index`` and ``gateway`` are the first.
    """

    index: int
    family: int
    destination: str
    gateway: str = ""
    source: str = ""
    scope: int = 0
    protocol: int = RTPROT_BOOT
    kind: int = RTN_UNICAST
    flags: int = 0
    mtu: int = 0
    metric: int = 0
    table: int = RT_TABLE_MAIN
    ways: int = 1


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Who has which hardware address on a link."""

    index: int
    family: int
    address: str
    mac: str
    state: int
    flags: int = 0


class Rtnetlink:
    """One conversation with the kernel; not for several threads at once."""

    def __init__(self) -> None:
        self._socket = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0
        # Something changed during a dump, which may lack entries.
        self._interrupted = False

    def __enter__(self) -> Rtnetlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the conversation.  May be called twice."""
        self._socket.close()

    def change(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request that changes something.  Raises OSError with the kernel's own words."""
        self._send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)
        for _ in self._receive():
            pass

    def links(self) -> list[Link]:
        """Return the links in the order of their numbers."""
        return [_link(data) for data in self._dump(RTM_GETLINK, struct.pack(_IFINFO, *[0] * 5))]

    def addresses(self) -> list[Address]:
        """Return the addresses of all links, of both families."""
        return [_address(data) for data in self._dump(RTM_GETADDR, struct.pack(_IFADDR, *[0] * 5))]

    def routes(self) -> list[Route]:
        """Return the routes of all tables, of both families."""
        body = struct.pack(_RTMSG, *[0] * 9)
        return [_route(data) for data in self._dump(RTM_GETROUTE, body)]

    def neighbours(self) -> list[Neighbour]:
        """Return the neighbours of all links, of both families."""
        found = [_neighbour(d) for d in self._dump(RTM_GETNEIGH, struct.pack(_NDMSG, *[0] * 5))]
        return [entry for entry in found if entry.family in (AF_INET, AF_INET6) and entry.address]

    def set_link(
        self, index: int, attributes: bytes = b"", *, flags: int = 0, mask: int = 0
    ) -> None:
        """Change a link: attributes made by ``attribute``, and the flags under ``mask``."""
        self.change(RTM_NEWLINK, struct.pack(_IFINFO, 0, 0, index, flags, mask) + attributes)

    def add_link(self, attributes: bytes) -> None:
        """Make a link."""
        body = struct.pack(_IFINFO, *[0] * 5) + attributes
        self.change(RTM_NEWLINK, body, NLM_F_CREATE | NLM_F_EXCL)

    def delete_link(self, index: int) -> None:
        """Remove a link."""
        self.change(RTM_DELLINK, struct.pack(_IFINFO, 0, 0, index, 0, 0))

    def add_address(self, address: Address) -> None:
        """Give a link an address; one that it has is no error."""
        self.change(RTM_NEWADDR, _render_address(address), NLM_F_CREATE | NLM_F_REPLACE)

    def delete_address(self, address: Address) -> None:
        """Take an address away."""
        self.change(RTM_DELADDR, _render_address(address))

    def add_route(self, route: Route) -> None:
        """Add a route; one that is there is no error."""
        self.change(RTM_NEWROUTE, _render_route(route), NLM_F_CREATE | NLM_F_REPLACE)

    def delete_route(self, route: Route) -> None:
        """Remove a route."""
        self.change(RTM_DELROUTE, _render_route(route))

    def add_neighbour(self, neighbour: Neighbour) -> None:
        """Add a neighbour, or change it."""
        body = struct.pack(
            _NDMSG, neighbour.family, neighbour.index, neighbour.state, neighbour.flags, 0
        )
        body += attribute(_NDA_DST, _socket.inet_pton(neighbour.family, neighbour.address))
        body += attribute(_NDA_LLADDR, parse_mac(neighbour.mac))
        self.change(RTM_NEWNEIGH, body, NLM_F_CREATE | NLM_F_REPLACE)

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        for _ in range(_DUMP_TRIES):
            self._interrupted = False
            self._send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
            found = list(self._receive())
            if not self._interrupted:
                return found
        raise OSError(11, "the kernel's lists change all the time")  # EAGAIN

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, flags, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self) -> Iterator[bytes]:
        while True:
            data = self._socket.recv(_RECEIVE_BYTES)
            while len(data) >= 16:
                length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", data)
                body, data = data[16:length], data[(length + 3) & ~3 :]
                if sequence != self._sequence:
                    continue
                self._interrupted |= bool(flags & _NLM_F_DUMP_INTR)
                if kind == _NLMSG_DONE:
                    _raise_number(body)
                    return
                if kind == _NLMSG_ERROR:
                    _raise_error(body, capped=bool(flags & _NLM_F_CAPPED))
                    return
                yield body


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """Return one attribute: bytes as they are, text with its end, a number as u32."""
    if isinstance(value, str):
        value = value.encode() + b"\0"
    elif isinstance(value, int):
        value = struct.pack("=I", value)
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Return attributes by kind; of equal ones the last."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[4:length]
        data = data[(length + 3) & ~3 :]
    return found


def parse_mac(text: str) -> bytes:
    """Return the six bytes of ``02:00:00:00:00:01``.  Raises ValueError."""
    parts = text.split(":")
    if len(parts) != 6 or any(len(part) != 2 for part in parts):
        raise ValueError(f"{text!r} is no hardware address")
    return bytes(int(part, 16) for part in parts)


def _raise_error(body: bytes, *, capped: bool) -> None:
    (number,) = struct.unpack_from("=i", body)
    if number == 0:
        return
    echoed = 16 if capped else struct.unpack_from("=I", body, 4)[0]
    words = (
        parse_attributes(body[4 + echoed :]).get(1, b"").rstrip(b"\0").decode("utf-8", "replace")
    )
    raise OSError(-number, words or os.strerror(-number))


def _raise_number(body: bytes) -> None:
    number = int.from_bytes(body[:4], "little", signed=True)
    if number < 0:
        raise OSError(-number, os.strerror(-number))


def _text(data: dict[int, bytes], kind: int) -> str:
    return data.get(kind, b"").rstrip(b"\0").decode("utf-8", "replace")


def _number(data: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(data.get(kind, b"\0"), "little")


def _ip(family: int, data: dict[int, bytes], kind: int) -> str:
    value = data.get(kind)
    if value is None or family not in (AF_INET, AF_INET6):
        return ""
    return _socket.inet_ntop(family, value)


def _link(data: bytes) -> Link:
    _, _, index, flags, _ = struct.unpack_from(_IFINFO, data)
    found = parse_attributes(data[16:])
    info = parse_attributes(found.get(IFLA_LINKINFO, b""))
    return Link(
        index,
        _text(found, IFLA_IFNAME),
        _text(info, IFLA_INFO_KIND),
        found.get(IFLA_ADDRESS, b"").hex(":"),
        _number(found, IFLA_MTU),
        flags,
        _number(found, IFLA_LINK),
    )


def _address(data: bytes) -> Address:
    family, prefix, flags, scope, index = struct.unpack_from(_IFADDR, data)
    found = parse_attributes(data[8:])
    other = _ip(family, found, _IFA_ADDRESS)
    local = _ip(family, found, _IFA_LOCAL) or other
    peer = other if other != local else ""
    return Address(index, family, local, prefix, scope, _number(found, _IFA_FLAGS) or flags, peer)


def _render_address(address: Address) -> bytes:
    local, other = (
        _socket.inet_pton(address.family, text)
        for text in (address.address, address.peer or address.address)
    )
    body = struct.pack(_IFADDR, address.family, address.prefix, 0, address.scope, address.index)
    body += attribute(_IFA_LOCAL, local) + attribute(_IFA_ADDRESS, other)
    return body + attribute(_IFA_FLAGS, address.flags)


def _route(data: bytes) -> Route:
    family, bits, _, _, table, protocol, scope, kind, flags = struct.unpack_from(_RTMSG, data)
    found = parse_attributes(data[12:])
    destination = _ip(family, found, _RTA_DST)
    metrics = parse_attributes(found.get(_RTA_METRICS, b""))
    ways = _split_ways(found.pop(_RTA_MULTIPATH, b""))
    if ways:
        found |= ways[0]
    return Route(
        index=_number(found, _RTA_OIF),
        family=family,
        destination=f"{destination}/{bits}" if destination else "",
        gateway=_ip(family, found, _RTA_GATEWAY),
        source=_ip(family, found, _RTA_PREFSRC),
        scope=scope,
        protocol=protocol,
        kind=kind,
        flags=flags & RTNH_F_ONLINK,
        mtu=_number(metrics, _RTAX_MTU),
        metric=_number(found, _RTA_PRIORITY),
        table=_number(found, _RTA_TABLE) or table,
        ways=max(1, len(ways)),
    )


def _split_ways(data: bytes) -> list[dict[int, bytes]]:
    """Return the attributes of each next hop (struct rtnexthop of linux/rtnetlink.h)."""
    ways = []
    while len(data) >= 8:
        length = int.from_bytes(data[:2], "little")
        if length < 8:
            break
        ways.append({_RTA_OIF: data[4:8], **parse_attributes(data[8:length])})
        data = data[(length + 3) & ~3 :]
    return ways


def _render_route(route: Route) -> bytes:
    address, _, bits = route.destination.partition("/")
    body = struct.pack(
        _RTMSG,
        route.family,
        int(bits) if address else 0,
        0,
        0,
        route.table,
        route.protocol,
        route.scope,
        route.kind,
        route.flags,
    )
    for kind, text in (
        (_RTA_DST, address),
        (_RTA_GATEWAY, route.gateway),
        (_RTA_PREFSRC, route.source),
    ):
        if text:
            body += attribute(kind, _socket.inet_pton(route.family, text))
    body += attribute(_RTA_OIF, route.index)
    if route.metric:
        body += attribute(_RTA_PRIORITY, route.metric)
    if route.mtu:
        body += attribute(_RTA_METRICS, attribute(_RTAX_MTU, route.mtu))
    return body


def _neighbour(data: bytes) -> Neighbour:
    family, index, state, flags, _ = struct.unpack_from(_NDMSG, data)
    found = parse_attributes(data[12:])
    mac = found.get(_NDA_LLADDR, b"").hex(":")
    return Neighbour(index, family, _ip(family, found, _NDA_DST), mac, state, flags)
