"""A pod's network namespace, connected to its machine: the facade of this folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kata.base import rtnetlink
from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.base.rtnetlink import AF_INET, Rtnetlink
from kata.host.network import connect, namespace
from kata.host.network.plan import Endpoint, Scan, add_to, plan_endpoints
from kata.host.network.watch import NetworkWatch
from kata.rpc.pb import types_pb2


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """How to connect.  Rates are bits per second as the machine sees them; 0 is no limit."""

    model: str
    rx_rate_bps: int = 0
    tx_rate_bps: int = 0


@dataclass(frozen=True, slots=True)
class Card:
    """A network card for the machine.  ``tap_fd`` belongs to the network and lives as long."""

    id: str
    name: str
    mac: str
    mtu: int
    tap_fd: int


class PodNetwork:
    """Connects what it finds in a namespace; ``close`` takes it all back."""

    def __init__(self, netns_path: str, settings: NetworkSettings, log: Logger) -> None:
        self._path = netns_path
        self._settings = settings
        self._log = log
        self._netns_fd = -1
        self._endpoints: list[Endpoint] = []
        self._connections: list[connect.Connection] = []

    def connect(self) -> tuple[Card, ...]:
        """Connect every interface that has an address.

        Raises KataError for what cannot be connected, naming it; then nothing is.
        """
        if namespace.is_host_namespace(self._path):
            raise KataError(
                f"connect network {self._path}: it is the host's own", Code.INVALID_ARGUMENT
            )
        self._netns_fd = namespace.open_namespace(self._path)
        try:
            return self.rescan()
        except BaseException:
            self.close()
            raise

    def rescan(self) -> tuple[Card, ...]:
        """Connect what was added since; engines may configure a network late.

        Raises KataError as ``connect`` does; then nothing of what was added is connected.
        """
        before = len(self._connections)
        known = {endpoint.link.index: n for n, endpoint in enumerate(self._endpoints)}
        ours = {connection.tap_name for connection in self._connections}
        scan = namespace.run_inside(self._netns_fd, take_scan)
        planned = plan_endpoints(scan, self._settings.model)
        try:
            cards = tuple(
                self._connect(endpoint)
                for endpoint in planned
                if endpoint.link.index not in known and endpoint.link.name not in ours
            )
        except BaseException:
            self._disconnect(before)
            raise
        for endpoint in planned:
            if endpoint.link.index in known:
                self._change(known[endpoint.link.index], endpoint)
        return cards

    def watch(self) -> NetworkWatch:
        """Return a watch of the namespace, for the caller to close before this."""
        return NetworkWatch(self._netns_fd)

    def interfaces(self, pci_paths: Mapping[str, str]) -> list[types_pb2.Interface]:
        """Return the interfaces for the guest; ``pci_paths`` are by the cards' ids."""
        return [
            types_pb2.Interface(
                device=endpoint.link.name,
                name=endpoint.link.name,
                IPAddresses=[
                    types_pb2.IPAddress(
                        family=_family(item.family), address=item.address, mask=str(item.prefix)
                    )
                    for item in endpoint.addresses
                ],
                mtu=endpoint.link.mtu,
                hwAddr=connection.mac,
                devicePath=pci_paths.get(connection.id, ""),
                type=endpoint.link.kind,
                raw_flags=endpoint.link.flags & rtnetlink.IFF_NOARP,
            )
            for endpoint, connection in zip(self._endpoints, self._connections, strict=True)
        ]

    def routes(self) -> list[types_pb2.Route]:
        """Return the routes for the guest."""
        return [
            types_pb2.Route(
                dest=route.destination,
                gateway=route.gateway,
                device=endpoint.link.name,
                source=route.source,
                scope=route.scope,
                family=_family(route.family),
                flags=route.flags,
                mtu=route.mtu,
            )
            for endpoint in self._endpoints
            for route in endpoint.routes
        ]

    def neighbours(self) -> list[types_pb2.ARPNeighbor]:
        """Return the neighbours for the guest."""
        return [
            types_pb2.ARPNeighbor(
                toIPAddress=types_pb2.IPAddress(family=_family(item.family), address=item.address),
                device=endpoint.link.name,
                lladdr=item.mac,
                state=rtnetlink.NUD_PERMANENT,
            )
            for endpoint in self._endpoints
            for item in endpoint.neighbours
        ]

    def close(self) -> None:
        """Disconnect.  May be called twice; a namespace that has gone is no error."""
        self._disconnect(0)
        if self._netns_fd >= 0:
            os.close(self._netns_fd)
            self._netns_fd = -1

    def _disconnect(self, left: int) -> None:
        """Take the connections back but for the first ``left``."""
        connections, self._connections = self._connections[left:], self._connections[:left]
        self._endpoints = self._endpoints[:left]
        for connection in reversed(connections):
            namespace.run_inside(self._netns_fd, connection.undo)

    def _connect(self, endpoint: Endpoint) -> Card:
        self._warn_of_rates(endpoint)
        number = len(self._connections)
        rates = connect.Rates(self._settings.rx_rate_bps, self._settings.tx_rate_bps)
        try:
            connection = namespace.run_inside(
                self._netns_fd, lambda: connect.connect(endpoint, number, rates)
            )
        except OSError as error:
            raise KataError(
                f"connect interface {endpoint.link.name} by {endpoint.model}: {error.strerror}",
                Code.INTERNAL,
            ) from error
        self._endpoints.append(endpoint)
        self._connections.append(connection)
        for route in endpoint.routes:
            if route.ways > 1:
                self._log.warning(
                    "route has several ways: the guest gets the first",
                    interface=endpoint.link.name,
                    route=route.destination or "default",
                    gateway=route.gateway,
                )
        self._log.info("interface connected", interface=endpoint.link.name, model=endpoint.model)
        link = endpoint.link
        return Card(connection.id, link.name, connection.mac, link.mtu, connection.fd)

    def _change(self, number: int, endpoint: Endpoint) -> None:
        """Take over what has changed at a link that is connected."""
        if endpoint.model == "macvtap":
            # What the link had was taken from it, so what it has is new.
            connection = self._connections[number]
            namespace.run_inside(self._netns_fd, lambda: connect.silence(endpoint.link, connection))
            endpoint = add_to(self._endpoints[number], endpoint)
        self._endpoints[number] = endpoint

    def _warn_of_rates(self, endpoint: Endpoint) -> None:
        wanted = {"rx": self._settings.rx_rate_bps, "tx": self._settings.tx_rate_bps}
        direction = connect.UNLIMITED.get(endpoint.model)
        if direction and wanted[direction]:
            self._log.warning(
                "rate not limited: the model cannot",
                interface=endpoint.link.name,
                model=endpoint.model,
                direction=direction,
            )


def take_scan() -> Scan:
    """Look at the namespace that the calling thread is in."""
    with Rtnetlink() as netlink:
        return Scan(
            tuple(netlink.links()),
            tuple(netlink.addresses()),
            tuple(netlink.routes()),
            tuple(netlink.neighbours()),
        )


def _family(family: int) -> types_pb2.IPFamily.ValueType:
    return types_pb2.v4 if family == AF_INET else types_pb2.v6
