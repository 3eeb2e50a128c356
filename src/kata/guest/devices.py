"""Devices for a container: those that the host plugged in, or all of the guest's.

They are found, and put into its specification.
"""

from __future__ import annotations

import fcntl
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
DEV = "/dev"
# What the module makes when it is loaded (CONFIG_BLK_DEV_LOOP_MIN_COUNT of Debian's kernel).
_LOOPS = 8
# linux/loop.h
_LOOP_CTL_ADD = 0x4C80
# Whoever opens one of these makes the kernel load the module behind it: path, type, numbers, mode.
_ASLEEP = (
    ("fuse", "c", 10, 229, 0o666),
    ("loop-control", "c", 10, 237, 0o660),
    ("net/tun", "c", 10, 200, 0o666),
    *((f"loop{number}", "b", 7, number, 0o660) for number in range(_LOOPS)),
)
# The machine's console, and the ways to the host.
_AGENTS = ("console", "hvc", "vport")


def place_devices(
    devices: Iterable[Device], spec: dict[str, Json], load_module: Callable[[str], None]
) -> None:
    """Wait for each device and give the specification its numbers in this guest.

    One of type ``guest`` stands for all that the guest has.  Raises UNIMPLEMENTED for a kind that
    is not known, DEADLINE_EXCEEDED for one that does not appear, INVALID_ARGUMENT for one that the
    specification does not name.
    """
    for device in devices:
        if device.type == "guest":
            _add_all(spec)
            continue
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


def list_nodes(folder: str) -> dict[str, dict[str, Json]]:
    """Return the device nodes below a folder as the specification has devices, by their paths.

    What is mounted below is left out, and the agent's own.
    """
    found: dict[str, dict[str, Json]] = {}
    pending, file_system = [folder], os.stat(folder).st_dev
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                facts = entry.stat(follow_symlinks=False)
                if facts.st_dev != file_system or entry.name.startswith(_AGENTS):
                    continue
                if stat.S_ISDIR(facts.st_mode):
                    pending.append(entry.path)
                elif stat.S_ISCHR(facts.st_mode) or stat.S_ISBLK(facts.st_mode):
                    found[entry.path] = _describe(entry.path, facts)
    return found


def _describe(path: str, facts: os.stat_result) -> dict[str, Json]:
    return {
        "path": path,
        "type": "c" if stat.S_ISCHR(facts.st_mode) else "b",
        "major": os.major(facts.st_rdev),
        "minor": os.minor(facts.st_rdev),
        "fileMode": stat.S_IMODE(facts.st_mode),
        "uid": facts.st_uid,
        "gid": facts.st_gid,
    }


def _add_all(spec: dict[str, Json]) -> None:
    """Name all nodes of the guest that a specification does not name, those to be loaded too."""
    linux = spec.get("linux")
    if not isinstance(linux, dict):
        return
    entries = linux.setdefault("devices", [])
    if not isinstance(entries, list):
        return
    if os.path.exists(f"{DEV}/loop-control"):
        _make_loops()
    found = list_nodes(DEV)
    for name, kind, major, minor, mode in _ASLEEP:
        path = f"{DEV}/{name}"
        facts: dict[str, Json] = {"path": path, "type": kind, "major": major, "minor": minor}
        found.setdefault(path, facts | {"fileMode": mode})
    named = {entry.get("path") for entry in entries if isinstance(entry, dict)}
    entries.extend(entry for path, entry in found.items() if path not in named)


def _make_loops() -> None:
    """Make the loop devices that programs open by name, in a kernel that has made none."""
    control = os.open(f"{DEV}/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for number in range(_LOOPS):
            try:
                fcntl.ioctl(control, _LOOP_CTL_ADD, number)
            except FileExistsError:
                pass
    finally:
        os.close(control)


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
