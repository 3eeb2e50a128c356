"""The disks of a sandbox's containers, plugged in while these are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.spec import BlockDevice
from kata.host.sandbox.devices import DiskPlan

# The guest has to let go of a disk that nobody uses any more; under emulation that takes a second.
_UNPLUG_S = 10.0


class Disks:
    """All disks of one sandbox, by the containers that use them."""

    def __init__(self, hypervisor: Callable[[], Hypervisor], log: Logger) -> None:
        """``hypervisor`` returns the machine's driver, or raises when it has ended."""
        self._hypervisor = hypervisor
        self._log = log
        self._names: dict[str, list[str]] = {}

    def plug(self, container_id: str, planned: Sequence[DiskPlan]) -> dict[str, str]:
        """Plug disks in; returns their PCI paths by the container's paths.  Raises KataError."""
        paths: dict[str, str] = {}
        for disk in planned:
            # QEMU's ids start with a letter and have no limit worth minding.
            name = f"disk-{container_id}-{len(paths)}"
            device = BlockDevice(name, disk.host_path, disk.read_only, raw_device=True)
            paths[disk.container_path] = self._hypervisor().plug_block(device)
            self._names.setdefault(container_id, []).append(name)
        return paths

    def release(self, container_id: str) -> None:
        """Take the disks of a container out again; a failure is logged."""
        for disk in self._names.pop(container_id, []):
            try:
                self._hypervisor().unplug(disk, _UNPLUG_S)
            except KataError as error:
                self._log.warning("disk not unplugged", disk=disk, error=describe_error(error))
