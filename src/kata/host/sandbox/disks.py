"""The disks of a sandbox's containers, plugged in while these are there."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from kata.base import directvolume
from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.spec import BlockDevice
from kata.host.sandbox.devices import DiskPlan

# The guest has to let go of a disk that nobody uses any more; under emulation that takes a second.
_UNPLUG_S = 10.0
_SECTOR_BYTES = 512


@dataclass(slots=True)
class _Plugged:
    """A disk that is in the machine, and how many containers use it.

    One that nobody uses could not be unplugged, and is on its way out.
    """

    plan: DiskPlan
    # What QEMU knows it by: of any length for a device, but its node has a name of 31 bytes.
    id: str
    pci_path: str
    users: int = 0


class Disks:
    """All disks of one sandbox, by the containers that use them."""

    def __init__(self, sandbox_id: str, hypervisor: Callable[[], Hypervisor], log: Logger) -> None:
        """``hypervisor`` returns the machine's driver, or raises when it has ended."""
        self._sandbox_id = sandbox_id
        self._hypervisor = hypervisor
        self._log = log
        # Two containers may want one volume at the same time.
        self._lock = threading.Lock()
        self._disks: dict[str, _Plugged] = {}
        self._names: dict[str, list[str]] = {}
        self._numbers: Iterator[int] = itertools.count()

    def plug(self, container_id: str, planned: Sequence[DiskPlan]) -> dict[str, str]:
        """Plug disks in; returns their PCI paths by the plans' paths.  Raises KataError.

        After a failure the caller calls ``release``.
        """
        paths: dict[str, str] = {}
        for index, plan in enumerate(planned):
            name = _name(container_id, index, plan)
            with self._lock:
                disk = self._get_plugged(name, plan)
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
                    try:
                        self._unplug(name)
                    except KataError as error:
                        self._log.warning(
                            "disk not unplugged", disk=name, error=describe_error(error)
                        )

    def grow(self, path: str, size_bytes: int) -> None:
        """Let the guest know that a volume's disk has grown; ``path`` is the guest's.

        A file is made as large; a device may be larger than asked for.  Neither gets smaller.
        Raises NOT_FOUND without such a volume, OUT_OF_RANGE for less than a file has.
        """
        with self._lock:
            disk = self._disks.get(path)
            if disk is None or not disk.users:
                raise KataError(f"resize volume {path}: it is not in use", Code.NOT_FOUND)
            wanted = _plan_size(disk.plan.host_path, size_bytes)
            self._hypervisor().resize_block(disk.id, wanted)

    def close(self) -> None:
        """Give up what is there, for a machine that has ended."""
        with self._lock:
            for disk in self._disks.values():
                self._drop_note(disk.plan)
            self._disks.clear()
            self._names.clear()

    def _get_plugged(self, name: str, plan: DiskPlan) -> _Plugged:
        disk = self._disks.get(name)
        if disk is not None and not disk.users:
            self._unplug(name)
            disk = None
        if disk is None:
            disk = self._disks[name] = self._plug(plan)
            if plan.volume:
                directvolume.note_user(plan.volume, self._sandbox_id)
        elif disk.plan != plan:
            raise KataError(
                f"plug disk {plan.host_path} as {plan.volume}: {disk.plan.host_path} is in use as"
                f" {disk.plan.volume}",
                Code.FAILED_PRECONDITION,
            )
        return disk

    def _plug(self, plan: DiskPlan) -> _Plugged:
        is_device = stat.S_ISBLK(_look_at(plan.host_path).st_mode)
        disk_id = f"disk{next(self._numbers)}"
        device = BlockDevice(disk_id, plan.host_path, plan.read_only, raw_device=is_device)
        return _Plugged(plan, disk_id, self._hypervisor().plug_block(device))

    def _unplug(self, name: str) -> None:
        disk = self._disks[name]
        self._drop_note(disk.plan)
        self._hypervisor().unplug(disk.id, _UNPLUG_S)
        del self._disks[name]

    def _drop_note(self, plan: DiskPlan) -> None:
        if plan.volume:
            directvolume.drop_user(plan.volume, self._sandbox_id)


def _plan_size(path: str, size_bytes: int) -> int:
    """Return the size in bytes that a disk shall have, of at least so many."""
    is_device = stat.S_ISBLK(_look_at(path).st_mode)
    try:
        with open(path, "rb") as file:
            now_bytes = file.seek(0, os.SEEK_END)
    except OSError as error:
        raise KataError(f"resize disk {path}: {error.strerror}", Code.NOT_FOUND) from error
    if is_device:
        return now_bytes
    if size_bytes < now_bytes:
        raise KataError(
            f"resize {path} to {size_bytes} bytes: it has {now_bytes}", Code.OUT_OF_RANGE
        )
    return -(-size_bytes // _SECTOR_BYTES) * _SECTOR_BYTES


def _look_at(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise KataError(f"plug disk {path}: {error.strerror}", Code.NOT_FOUND) from error


def _name(container_id: str, index: int, plan: DiskPlan) -> str:
    """Return what a disk is known by here: a volume's by its path, which containers share."""
    return plan.container_path if plan.volume else f"{container_id}/{index}"
