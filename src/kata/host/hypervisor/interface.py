"""What a hypervisor driver can do; the sandbox knows this and no driver.

A driver starts one machine.  Optional abilities are asked for with ``supports``; calling one that
is missing raises UNIMPLEMENTED.
"""

from __future__ import annotations

from typing import Protocol

from kata.base.processes import Child
from kata.host.hypervisor.spec import (
    BlockDevice,
    GuestStreams,
    LentFds,
    NetworkDevice,
    SharedFolder,
    VmSpec,
)

HOTPLUG_NETWORK = "hotplug-network"
HOTPLUG_BLOCK = "hotplug-block"
# Saving a machine, and starting others from what was saved.
TEMPLATE = "template"


class Hypervisor(Protocol):
    """One virtual machine."""

    def start(self, spec: VmSpec, lent: LentFds, *, restored: bool = False) -> GuestStreams:
        """Start the machine and return at once; a ``restored`` one waits for its state."""

    def save(self) -> bytes:
        """Stop the machine for ever and return its state, without its memory."""

    def restore(self, state: bytes) -> None:
        """Give a machine that was started for it its state, and let it run.

        The memory that it was lent must be that of the machine that was saved.
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

    def plug_share(self, share: SharedFolder, share_fd: int) -> None:
        """Plug a shared folder in; ``share_fd`` is virtiofsd's socket, borrowed."""

    def plug_network(self, device: NetworkDevice) -> str:
        """Plug a network card in; returns its PCI path in the guest (``02/00``)."""

    def plug_block(self, device: BlockDevice) -> str:
        """Plug a disk in; returns its PCI path in the guest."""

    def resize_block(self, device_id: str, size_bytes: int) -> None:
        """Tell the guest that a disk has grown; a file is made to."""

    def unplug(self, device_id: str, timeout_s: float) -> None:
        """Take a device out; returns when the guest has let go of it."""
