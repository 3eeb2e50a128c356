"""Connect one link of a pod's namespace to a tap device that the machine's card is.

Everything here runs in a thread that is in the namespace.  Taps are not persistent: they go when
the last descriptor is closed, so a killed shim and a killed machine leave none.  A macvtap stays
until its link or the namespace goes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from kata.base import rtnetlink, syscalls
from kata.base.rtnetlink import Link, Rtnetlink, attribute, parse_mac
from kata.host.network import traffic
from kata.host.network.plan import Endpoint

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_MACVLAN_MODE_BRIDGE, _IFLA_MACVLAN_MODE = 4, 1
# linux/if_link.h: whether the kernel gives a link an IPv6 address of its own
_IFLA_AF_SPEC, _IFLA_INET6_ADDR_GEN_MODE = 26, 8
_GEN_MODE_EUI64, _GEN_MODE_NONE = b"\0", b"\1"


@dataclass(frozen=True, slots=True)
class Rates:
    """Bits per second towards the machine and from it; 0 is no limit."""

    rx_bps: int = 0
    tx_bps: int = 0


@dataclass(slots=True)
class Connection:
    """One connected link.  Owns the tap's descriptor."""

    id: str
    mac: str
    tap_name: str
    fd: int
    steps: list[Callable[[Rtnetlink], None]] = field(default_factory=list)

    def undo(self) -> None:
        """Take everything back, in the namespace."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        with Rtnetlink() as netlink:
            for step in reversed(self.steps):
                try:
                    step(netlink)
                except OSError:
                    pass  # the engine was faster
        self.steps.clear()


def connect(endpoint: Endpoint, number: int, rates: Rates) -> Connection:
    """Connect a link by its model; ``number`` tells the connections of a pod apart.

    Raises OSError; then nothing is left connected.
    """
    with Rtnetlink() as netlink:
        return _MODELS[endpoint.model](netlink, endpoint.link, number, rates)


def silence(link: Link, made: Connection) -> None:
    """Take the link's addresses, so that the host's side does not answer for the guest."""
    with Rtnetlink() as netlink:
        _silence(netlink, link, made)


def _connect_tcfilter(netlink: Rtnetlink, link: Link, number: int, rates: Rates) -> Connection:
    """Redirect all frames between the link and a tap; the card has the link's MAC address."""
    name = f"tap{number}_kata"
    made = Connection(f"net{number}", link.mac, name, _open_tap(name))
    try:
        tap = _find(netlink, name)
        _bring_up(netlink, tap, link.mtu)
        made.steps.append(lambda later: traffic.remove_redirection(later, link.index))
        traffic.redirect_all(netlink, link.index, tap.index)
        traffic.redirect_all(netlink, tap.index, link.index)
        netlink.set_link(link.index, flags=rtnetlink.IFF_UP, mask=rtnetlink.IFF_UP)
        _hear_groups(netlink, link, made)
        _limit(netlink, made, rates, towards=tap.index, away=link.index)
    except BaseException:
        made.undo()
        raise
    return made


def _connect_macvtap(netlink: Rtnetlink, link: Link, number: int, rates: Rates) -> Connection:
    """Put a macvtap with the link's MAC address on the link, which gets another one."""
    name = f"tap{number}_kata"
    mac = parse_mac(link.mac)
    made = Connection(f"net{number}", link.mac, name, -1)
    try:
        other = bytes((mac[0] | 2, *os.urandom(5)))
        made.steps.append(
            lambda later: later.set_link(link.index, attribute(rtnetlink.IFLA_ADDRESS, mac))
        )
        netlink.set_link(link.index, attribute(rtnetlink.IFLA_ADDRESS, other))
        mode = attribute(_IFLA_MACVLAN_MODE, _MACVLAN_MODE_BRIDGE)
        info = attribute(rtnetlink.IFLA_INFO_KIND, "macvtap")
        info += attribute(rtnetlink.IFLA_INFO_DATA, mode)
        netlink.add_link(
            attribute(rtnetlink.IFLA_IFNAME, name)
            + attribute(rtnetlink.IFLA_LINK, link.index)
            + attribute(rtnetlink.IFLA_ADDRESS, mac)
            + attribute(rtnetlink.IFLA_MTU, link.mtu)
            + attribute(rtnetlink.IFLA_LINKINFO, info)
        )
        tap = _find(netlink, name)
        made.steps.append(lambda later: later.delete_link(tap.index))
        # The guest's own link-local address is the one that the link had.
        _generate_addresses(netlink, link.index, _GEN_MODE_NONE)
        made.steps.append(lambda later: _generate_addresses(later, link.index, _GEN_MODE_EUI64))
        _silence(netlink, link, made, link_local=True)
        _generate_addresses(netlink, tap.index, _GEN_MODE_NONE)
        _bring_up(netlink, link, link.mtu)
        _bring_up(netlink, tap, link.mtu)
        _hear_groups(netlink, tap, made)
        made.fd = _open_macvtap(tap.index)
        _limit(netlink, made, rates, away=link.index)
    except BaseException:
        made.undo()
        raise
    return made


def _connect_tap(netlink: Rtnetlink, link: Link, number: int, rates: Rates) -> Connection:
    """Attach to a tap that somebody made for the machine."""
    made = Connection(f"net{number}", link.mac, link.name, _open_tap(link.name))
    try:
        _bring_up(netlink, link, link.mtu)
        _limit(netlink, made, rates, towards=link.index)
    except BaseException:
        made.undo()
        raise
    return made


# What a model has no queue of the kernel's for.
UNLIMITED = {"macvtap": "rx", "tap": "tx"}
_MODELS = {
    "tcfilter": _connect_tcfilter,
    "macvtap": _connect_macvtap,
    "tap": _connect_tap,
}


def _silence(netlink: Rtnetlink, link: Link, made: Connection, *, link_local: bool = False) -> None:
    # The last one first: a network's first address takes the others with it.
    for address in reversed(netlink.addresses()):
        is_local = address.scope == rtnetlink.RT_SCOPE_LINK
        if address.index == link.index and (link_local or not is_local):
            netlink.delete_address(address)
            made.steps.append(lambda later, item=address: later.add_address(item))  # type: ignore[misc]


def _limit(
    netlink: Rtnetlink, made: Connection, rates: Rates, *, towards: int = -1, away: int = -1
) -> None:
    """Limit what leaves the tap (the machine receives it) and the link (the machine sent it)."""
    for index, rate_bps in ((towards, rates.rx_bps), (away, rates.tx_bps)):
        if rate_bps and index >= 0:
            traffic.limit_rate(netlink, index, rate_bps)
            made.steps.append(lambda later, index=index: traffic.remove_limit(later, index))  # type: ignore[misc]


def _open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open_macvtap(index: int) -> int:
    """Open a macvtap's character device, whose node only udev would make, by one of our own.

    Its number is told by a file that only a sysfs of this network namespace shows, and /run may
    refuse devices (nodev).  So both file systems are mounted where nobody but this thread sees
    them, and go with it.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("sysfs", "/sys", "sysfs", syscalls.MS_RDONLY)
    with open(f"/sys/class/macvtap/tap{index}/dev") as file:
        major, _, minor = file.read().strip().partition(":")
    syscalls.mount("tmpfs", "/sys", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NOEXEC)
    os.mknod("/sys/tap", 0o600 | stat.S_IFCHR, os.makedev(int(major), int(minor)))
    return os.open("/sys/tap", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)


def _find(netlink: Rtnetlink, name: str) -> Link:
    return next(link for link in netlink.links() if link.name == name)


def _bring_up(netlink: Rtnetlink, link: Link, mtu: int) -> None:
    up = rtnetlink.IFF_UP
    netlink.set_link(link.index, attribute(rtnetlink.IFLA_MTU, mtu), flags=up, mask=up)


def _hear_groups(netlink: Rtnetlink, link: Link, made: Connection) -> None:
    """Let a link take the frames of all groups: which ones the guest listens to is unknown here.

    Without it those of a macvlan and a macvtap do not find their IPv6 neighbours.
    """
    flag = rtnetlink.IFF_ALLMULTI
    if not link.flags & flag:
        made.steps.append(lambda later: later.set_link(link.index, mask=flag))
        netlink.set_link(link.index, flags=flag, mask=flag)


def _generate_addresses(netlink: Rtnetlink, index: int, mode: bytes) -> None:
    family = attribute(rtnetlink.AF_INET6, attribute(_IFLA_INET6_ADDR_GEN_MODE, mode))
    try:
        netlink.set_link(index, attribute(_IFLA_AF_SPEC, family))
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:  # a kernel without IPv6
            raise
