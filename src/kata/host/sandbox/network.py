"""A pod's network between its parts: interfaces to the machine, settings to the guest.

What stands in the pod's network namespace is kata.host.network's business; plugging cards in is the
hypervisor's; this module carries the one to the other.
"""

from __future__ import annotations

from typing import TypeAlias

from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.spec import NetworkDevice
from kata.host.network.network import Card, NetworkSettings, PodNetwork
from kata.host.network.watch import NetworkWatch
from kata.host.sandbox.agent import Agent
from kata.rpc.pb import types_pb2

Settings: TypeAlias = tuple[
    list[types_pb2.Interface], list[types_pb2.Route], list[types_pb2.ARPNeighbor]
]


class SandboxNetwork:
    """The network of one sandbox.  ``close`` gives everything on the host back."""

    def __init__(self, netns_path: str, settings: NetworkSettings, log: Logger) -> None:
        self._network = PodNetwork(netns_path, settings, log)
        self._log = log
        self._watch: NetworkWatch | None = None
        self._cards: list[Card] = []
        self._pci_paths: dict[str, str] = {}
        self._told: Settings = ([], [], [])

    def connect(self) -> None:
        """Look at the namespace and connect what is in it; the machine need not run yet."""
        self._cards += self._network.connect()
        self._watch = self._network.watch()

    def plug(self, hypervisor: Hypervisor) -> None:
        """Plug the cards in that are not yet; a machine that boots finds them as it boots."""
        for card in self._cards:
            if card.id not in self._pci_paths:
                device = NetworkDevice(card.id, card.mac, card.tap_fd)
                self._pci_paths[card.id] = hypervisor.plug_network(device)

    def configure(self, agent: Agent) -> bool:
        """Give the guest's interfaces the addresses, routes and neighbours of the pod's.

        Returns whether there was anything to tell.
        """
        wanted = (
            self._network.interfaces(self._pci_paths),
            self._network.routes(),
            self._network.neighbours(),
        )
        if wanted == self._told:
            return False
        interfaces, routes, neighbours = wanted
        for interface in interfaces:
            if interface not in self._told[0]:
                agent.update_interface(interface)
        agent.update_routes(routes)
        if neighbours:
            agent.add_neighbours(neighbours)
        self._told = wanted
        return True

    def follow(self, hypervisor: Hypervisor, agent: Agent) -> None:
        """From now on bring what an engine adds or changes into the machine."""
        if self._watch is not None:
            self._watch.start(lambda: self._update(hypervisor, agent))

    def close(self) -> None:
        """Disconnect.  May be called twice, and when the namespace has gone."""
        if self._watch is not None:
            self._watch.close()
        self._network.close()

    def _update(self, hypervisor: Hypervisor, agent: Agent) -> None:
        try:
            self._cards += self._network.rescan()
            self.plug(hypervisor)
            if self.configure(agent):
                self._log.info("network changed", interfaces=len(self._told[0]))
        except (KataError, OSError) as error:
            self._log.warning("network not followed", reason=describe_error(error))
