"""A pod's network between its parts: interfaces to the machine, settings to the guest.

What stands in the pod's network namespace is kata.host.network's business; plugging cards in is the
hypervisor's; this module carries the one to the other.
"""

from __future__ import annotations

from collections.abc import Sequence

from kata.base.log import Logger
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.spec import NetworkDevice
from kata.host.network.network import Card, NetworkSettings, PodNetwork
from kata.host.sandbox.agent import Agent


class SandboxNetwork:
    """The network of one sandbox.  ``close`` gives everything on the host back."""

    def __init__(self, netns_path: str, settings: NetworkSettings, log: Logger) -> None:
        self._network = PodNetwork(netns_path, settings, log)
        self._cards: list[Card] = []
        self._pci_paths: dict[str, str] = {}

    def connect(self) -> None:
        """Look at the namespace and connect what is in it; the machine need not run yet."""
        self._cards += self._network.connect()

    def plug(self, hypervisor: Hypervisor) -> None:
        """Plug the cards in that are not yet; a machine that boots finds them as it boots."""
        for card in self._cards:
            if card.id not in self._pci_paths:
                device = NetworkDevice(card.id, card.mac, card.tap_fd)
                self._pci_paths[card.id] = hypervisor.plug_network(device)

    def configure(self, agent: Agent) -> None:
        """Give the guest's interfaces the addresses, routes and neighbours of the pod's."""
        if not self._cards:
            return
        for interface in self._network.interfaces(self._pci_paths):
            agent.update_interface(interface)
        agent.update_routes(self._network.routes())
        neighbours = self._network.neighbours()
        if neighbours:
            agent.add_neighbours(neighbours)

    def rescan(self, hypervisor: Hypervisor, agent: Agent) -> int:
        """Connect what the engine has added since; returns how many interfaces that were."""
        new: Sequence[Card] = self._network.rescan()
        if new:
            self._cards += new
            self.plug(hypervisor)
            self.configure(agent)
        return len(new)

    def close(self) -> None:
        """Disconnect.  May be called twice, and when the namespace has gone."""
        self._network.close()
