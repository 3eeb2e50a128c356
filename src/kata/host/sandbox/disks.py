"""The disks of a sandbox's containers, plugged in while these are there."""

from __future__ import annotations

import binascii
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.spec import BlockDevice
from kata.host.sandbox.devices import DiskPlan

# The guest has to let go of a disk that nobody uses any more; under emulation that takes a second.
_UNPLUG_S = 10.0


@dataclass(slots=True)
class _Plugged:
    """A disk that is in the machine, and how many containers use it."""

    host_path: str
    pci_path: str
    users: int = 0


class Disks:
    """All disks of one sandbox, by the containers that use them."""

    def __init__(self, hypervisor: Callable[[], Hypervisor], log: Logger) -> None:
        """``hypervisor`` returns the machine's driver, or raises when it has ended."""
        self._hypervisor = hypervisor
        self._log = log
        # Two containers may want one volume at the same time.
        self._lock = threading.Lock()
        self._disks: dict[str, _Plugged] = {}
        self._names: dict[str, list[str]] = {}

    def plug(self, container_id: str, planned: Sequence[DiskPlan]) -> dict[str, str]:
        """Plug disks in; returns their PCI paths by the plans' paths.  Raises KataError.

        After a failure the caller calls ``release``.
        """
        paths: dict[str, str] = {}
        for index, plan in enumerate(planned):
            name = _name(container_id, index, plan)
            with self._lock:
                disk = self._disks.get(name)
                if disk is None:
                    disk = self._disks[name] = _Plugged(plan.host_path, self._plug(name, plan))
                disk.users += 1
                self._names.setdefault(container_id, []).append(name)
            paths[plan.container_path] = disk.pci_path
        return paths

    def release(self, container_id: str) -> None:
        """Take the disks of a container out again that no other uses; a failure is logged."""
        with self._lock:
            for name in self._names.pop(container_id, []):
                self._disks[name].users -= 1
                if self._disks[name].users == 0:
                    del self._disks[name]
                    self._unplug(name)

    def grow(self, path: str, size_bytes: int) -> None:
        """Let a volume's disk have grown, by the guest's path.  Never makes it smaller.

        Raises NOT_FOUND without such a volume, OUT_OF_RANGE for less than it has.
        """
        with self._lock:
            disk = self._disks.get(_name_volume(path))
            if disk is None:
                raise KataError(f"resize volume {path}: it is not in use", Code.NOT_FOUND)
            with open(disk.host_path, "rb") as file:
                now_bytes = file.seek(0, os.SEEK_END)
            if size_bytes < now_bytes:
                raise KataError(
                    f"resize {disk.host_path} to {size_bytes} bytes: it has {now_bytes}",
                    Code.OUT_OF_RANGE,
                )
            self._hypervisor().resize_block(_name_volume(path), size_bytes)

    def _plug(self, name: str, plan: DiskPlan) -> str:
        try:
            is_device = stat.S_ISBLK(os.stat(plan.host_path).st_mode)
        except OSError as error:
            raise KataError(
                f"plug disk {plan.host_path}: {error.strerror}", Code.NOT_FOUND
            ) from error
        device = BlockDevice(name, plan.host_path, plan.read_only, raw_device=is_device)
        return self._hypervisor().plug_block(device)

    def _unplug(self, name: str) -> None:
        try:
            self._hypervisor().unplug(name, _UNPLUG_S)
        except KataError as error:
            self._log.warning("disk not unplugged", disk=name, error=describe_error(error))


def _name(container_id: str, index: int, plan: DiskPlan) -> str:
    """Return the disk's id: QEMU's start with a letter and have no limit worth minding."""
    if plan.volume:
        return _name_volume(plan.container_path)
    return f"disk-{container_id}-{index}"


def _name_volume(path: str) -> str:
    return f"volume-{binascii.crc32(os.fsencode(path)):08x}"
