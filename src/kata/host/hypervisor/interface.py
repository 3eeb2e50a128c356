"""What a hypervisor driver can do; the sandbox knows this and no driver.

A driver starts one machine.  Optional abilities are asked for with ``supports``; calling one that
is missing raises UNIMPLEMENTED.
"""

from __future__ import annotations

from typing import Protocol

from kata.base.processes import Child
from kata.host.hypervisor.spec import BlockDevice, GuestStreams, NetworkDevice, VmSpec

HOTPLUG_NETWORK = "hotplug-network"
HOTPLUG_BLOCK = "hotplug-block"


class Hypervisor(Protocol):
    """One virtual machine."""

    def start(self, spec: VmSpec, share_fd: int = -1, vsock_fd: int = -1) -> GuestStreams:
        """Start the machine and return at once.

        ``share_fd`` is virtiofsd's socket, ``vsock_fd`` the vhost device; both are borrowed.
        """

    def child(self) -> Child:
        """Return the machine's process."""

    def stop(self) -> None:
        """End the machine at once.  May be called twice and on one that is dead."""

    def pause(self) -> None:
        """Stop the virtual processors."""

    def resume(self) -> None:
        """Let the virtual processors run again."""

    def supports(self, ability: str) -> bool:
        """Return whether an optional ability is there."""

    def plug_network(self, device: NetworkDevice) -> str:
        """Plug a network card in; returns its PCI path in the guest (``02/00``)."""

    def plug_block(self, device: BlockDevice) -> str:
        """Plug a disk in; returns its PCI path in the guest."""

    def unplug(self, device_id: str, timeout_s: float) -> None:
        """Take a device out; returns when the guest has let go of it."""
