"""Devices that the host plugged in for a container: found, and put into its specification."""

from __future__ import annotations

import os
import stat

from kata.base.errors import Code, KataError
from kata.guest.ports import Uevents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kata.oci.render import Json
    from kata.rpc.pb.agent_pb2 import Device

PCI_ROOT = "/sys/devices/pci0000:00"
# Upstream's limit for hot-plug is 3 s on real hardware; emulation is slower.
TIMEOUT_S = 20.0


def place_devices(
    devices: Iterable[Device], spec: dict[str, Json], load_module: Callable[[str], None]
) -> None:
    """Wait for each device and give the specification its numbers in this guest.

    Raises UNIMPLEMENTED for a kind that is not known, DEADLINE_EXCEEDED for one that does not
    appear, INVALID_ARGUMENT for one that the specification does not name.
    """
    for device in devices:
        if device.type != "blk":
            raise KataError(
                f"add device {device.container_path}: type {device.type!r} is not supported",
                Code.UNIMPLEMENTED,
            )
        load_module("virtio_blk")
        facts = os.stat(device.vm_path or wait_for_disk(device.id))
        _rewrite(spec, device.container_path, os.major(facts.st_rdev), os.minor(facts.st_rdev))


def wait_for_disk(pci_path: str) -> str:
    """Return the device node of the disk behind a PCI path such as ``02/00``."""
    uevents = Uevents()
    try:
        node = uevents.wait_for(lambda: find_disk(pci_path), TIMEOUT_S)
    finally:
        uevents.close()
    if node is None:
        raise KataError(
            f"add disk: nothing at PCI path {pci_path} after {TIMEOUT_S:g} s",
            Code.DEADLINE_EXCEEDED,
        )
    return node


def find_disk(pci_path: str) -> str | None:
    """Return the node of the disk at a PCI path (slots from the root on), None without."""
    folder = PCI_ROOT
    for slot in pci_path.split("/"):
        names = [name for name in _list(folder) if name.endswith(f":{slot}.0")]
        if not names:
            return None
        folder = f"{folder}/{names[0]}"
    for function in _list(folder):
        for name in _list(f"{folder}/{function}/block"):
            node = f"/dev/{name}"
            if os.path.exists(node) and stat.S_ISBLK(os.stat(node).st_mode):
                return node
    return None


def _rewrite(spec: dict[str, Json], path: str, major: int, minor: int) -> None:
    linux = spec.get("linux")
    entries = linux.get("devices") if isinstance(linux, dict) else None
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("path") == path:
            old = entry.get("major"), entry.get("minor")
            entry["major"], entry["minor"] = major, minor
            _rewrite_rules(linux, old, (major, minor))
            return
    raise KataError(
        f"add device {path}: the container's specification does not name it",
        Code.INVALID_ARGUMENT,
    )


def _rewrite_rules(linux: Json, old: tuple[Json, Json], new: tuple[int, int]) -> None:
    resources = linux.get("resources") if isinstance(linux, dict) else None
    rules = resources.get("devices") if isinstance(resources, dict) else None
    for rule in rules if isinstance(rules, list) else []:
        if not isinstance(rule, dict) or rule.get("type") != "b":
            continue
        if (rule.get("major"), rule.get("minor")) == old:
            rule["major"], rule["minor"] = new


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
