"""Connect one link of a pod's namespace to a tap device that the machine's card is.

Everything here runs in a thread that is in the namespace.  Taps are not persistent: they go when
the last descriptor is closed, so a killed shim and a killed machine leave none.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from kata.base import rtnetlink
from kata.base.rtnetlink import Link, Rtnetlink, attribute, parse_mac
from kata.host.network import traffic
from kata.host.network.plan import Endpoint

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_MACVLAN_MODE_BRIDGE, _IFLA_MACVLAN_MODE = 4, 1


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


def _connect_tcfilter(netlink: Rtnetlink, link: Link, number: int, rates: Rates) -> Connection:
    """Redirect all frames between the link and a tap; the card has the link's MAC address."""
    name = f"tap{number}_kata"
    made = Connection(f"net{number}", link.mac, name, _open_tap(name))
    try:
        tap = _find(netlink, name)
        _bring_up(netlink, tap, link.mtu)
        made.steps.append(lambda later: traffic.remove_all(later, link.index))
        traffic.redirect_all(netlink, link.index, tap.index)
        traffic.redirect_all(netlink, tap.index, link.index)
        netlink.set_link(link.index, flags=rtnetlink.IFF_UP, mask=rtnetlink.IFF_UP)
        _limit(netlink, tap.index, link.index, rates)
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
        _silence(netlink, link, made)
        _bring_up(netlink, link, link.mtu)
        _bring_up(netlink, tap, link.mtu)
        made.fd = _open_macvtap(tap.index)
        _limit(netlink, -1, link.index, rates)
    except BaseException:
        made.undo()
        raise
    return made


def _connect_tap(netlink: Rtnetlink, link: Link, number: int, rates: Rates) -> Connection:
    """Attach to a tap that somebody made for the machine."""
    made = Connection(f"net{number}", link.mac, link.name, _open_tap(link.name))
    try:
        _bring_up(netlink, link, link.mtu)
        _limit(netlink, link.index, -1, rates)
    except BaseException:
        made.undo()
        raise
    return made


_MODELS = {
    "tcfilter": _connect_tcfilter,
    "macvtap": _connect_macvtap,
    "tap": _connect_tap,
}


def _silence(netlink: Rtnetlink, link: Link, made: Connection) -> None:
    """Take the link's addresses, so that the host's side does not answer for the guest."""
    for address in netlink.addresses():
        if address.index == link.index and address.scope != rtnetlink.RT_SCOPE_LINK:
            netlink.delete_address(address)
            made.steps.append(lambda later, item=address: later.add_address(item))  # type: ignore[misc]


def _limit(netlink: Rtnetlink, towards: int, away: int, rates: Rates) -> None:
    """Limit what leaves the tap (the machine receives it) and the link (the machine sent it)."""
    if rates.rx_bps and towards >= 0:
        traffic.limit_rate(netlink, towards, rates.rx_bps)
    if rates.tx_bps and away >= 0:
        traffic.limit_rate(netlink, away, rates.tx_bps)


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
    """Open a macvtap's character device, whose node only udev would make, by one of our own."""
    path = f"/run/kata/.tap{index}-{os.getpid()}-{os.urandom(4).hex()}"
    os.mknod(path, 0o600 | 0o020000, _device_number(index))
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    finally:
        os.unlink(path)


def _device_number(index: int) -> int:
    """Return the number of ``/dev/tapINDEX``.

    macvtap's numbers are told by a file that only a sysfs of this network namespace shows, so one
    is mounted for a moment, where nobody else sees it.
    """
    import tempfile

    from kata.base import syscalls

    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with tempfile.TemporaryDirectory(dir="/run/kata") as folder:
        syscalls.mount("sysfs", folder, "sysfs", syscalls.MS_RDONLY)
        try:
            links = os.listdir(f"{folder}/class/macvtap")
            name = next(item for item in links if item == f"tap{index}")
            with open(f"{folder}/class/macvtap/{name}/dev") as file:
                major, _, minor = file.read().strip().partition(":")
        finally:
            syscalls.umount(folder)
    return os.makedev(int(major), int(minor))


def _find(netlink: Rtnetlink, name: str) -> Link:
    return next(link for link in netlink.links() if link.name == name)


def _bring_up(netlink: Rtnetlink, link: Link, mtu: int) -> None:
    up = rtnetlink.IFF_UP
    netlink.set_link(link.index, attribute(rtnetlink.IFLA_MTU, mtu), flags=up, mask=up)
