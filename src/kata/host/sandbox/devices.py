"""Decide what becomes of the devices that a container's spec names.  Pure but for ``find_node``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kata.base.errors import Code, KataError

# Character devices that every kernel has, with the same numbers and nothing of the host behind
# them (Documentation/admin-guide/devices.txt).
GUESTS_OWN = frozenset(
    {
        (1, 3),  # null
        (1, 5),  # zero
        (1, 7),  # full
        (1, 8),  # random
        (1, 9),  # urandom
        (1, 11),  # kmsg
        (5, 0),  # tty
        (5, 2),  # ptmx
        (10, 200),  # net/tun
        (10, 229),  # fuse
    }
)


# Without these nobody gets far with devices.
_PRIVILEGES = frozenset({"CAP_MKNOD", "CAP_SYS_ADMIN"})


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """A disk of the host for a container, which sees it at ``container_path``.

    That of a volume (the path that stands for it on the host) is mounted by the guest, at that path
    of the guest's, for all containers that want it; it may be a file.
    """

    container_path: str
    host_path: str
    read_only: bool
    volume: str = ""


def plan_devices(
    spec: dict[str, Any], find_node: Callable[[int, int], str]
) -> tuple[DiskPlan, ...]:
    """Return the disks to plug in; raises for devices that no virtual machine can be given.

    A container that may use every device was given all of the host's without asking for any, at
    the paths that they have there.  What it has asked for is at another path, and a disk; the rest
    is taken out of ``spec``, but for what is the guest's own.
    """
    linux = spec.get("linux") or {}
    disks: list[DiskPlan] = []
    if _allows_all(linux):
        linux["devices"] = [
            entry
            for entry in linux.get("devices") or []
            if (
                _is_asked_for(entry, find_node)
                if entry.get("type") == "b"
                else (entry.get("major"), entry.get("minor")) in GUESTS_OWN
            )
        ]
    for entry in linux.get("devices") or []:
        path, kind = str(entry.get("path")), entry.get("type")
        major, minor = entry.get("major") or 0, entry.get("minor") or 0
        if kind == "b":
            read_only = not _may_write(linux, major, minor)
            disks.append(DiskPlan(path, find_node(major, minor), read_only))
        elif kind in ("c", "u") and (major, minor) not in GUESTS_OWN:
            raise KataError(
                f"add device {path}: the host's character device {major}:{minor} cannot be given"
                " to a virtual machine",
                Code.INVALID_ARGUMENT,
                "leave it out; for privileged containers set privileged_without_host_devices = true"
                " for this runtime in the engine's configuration",
            )
    return tuple(disks)


def is_privileged(spec: dict[str, Any]) -> bool:
    """Return whether a container is to have all devices of its machine.

    The specification has no word for it.  Engines let such a container use every device; those of
    Kubernetes do not where they are to leave the host's devices out, but protect nothing of the
    kernel from it and make /sys writable, which no other container has.
    """
    linux = spec.get("linux") or {}
    capabilities = (spec.get("process") or {}).get("capabilities") or {}
    if not set(capabilities.get("bounding") or ()) >= _PRIVILEGES or linux.get("uidMappings"):
        return False
    guarded = any(linux.get(key) for key in ("seccomp", "maskedPaths", "readonlyPaths"))
    return _allows_all(linux) or (not guarded and _may_write_sysfs(spec))


def allow_all(spec: dict[str, Any]) -> None:
    """Let a container use every device."""
    rules = spec["linux"].setdefault("resources", {}).setdefault("devices", [])
    rules.append({"allow": True, "access": "rwm"})


def find_block_node(major: int, minor: int) -> str:
    """Return the host's node of a block device.  Raises NOT_FOUND."""
    try:
        with open(f"/sys/dev/block/{major}:{minor}/uevent") as file:
            facts = dict(line.rstrip("\n").partition("=")[::2] for line in file)
        node = f"/dev/{facts['DEVNAME']}"
    except (FileNotFoundError, KeyError):
        node = ""
    if not os.path.exists(node):
        raise KataError(
            f"add device {major}:{minor}: the host has no such block device", Code.NOT_FOUND
        )
    return node


def _allows_all(linux: dict[str, Any]) -> bool:
    """Return whether the device rules allow everything; the last rule for all devices decides."""
    allowed = False
    for rule in (linux.get("resources") or {}).get("devices") or []:
        numbers = rule.get("major"), rule.get("minor")
        if rule.get("type") in ("a", "", None) and set(numbers) <= {None, -1}:
            allowed = bool(rule.get("allow"))
    return allowed


def _is_asked_for(entry: dict[str, Any], find_node: Callable[[int, int], str]) -> bool:
    """Return whether a disk has another name than on the host."""
    try:
        node = find_node(entry.get("major") or 0, entry.get("minor") or 0)
    except KataError:
        return False  # a node of the host's without a disk
    return bool(entry.get("path") != node)


def _may_write_sysfs(spec: dict[str, Any]) -> bool:
    return any(
        mount.get("type") == "sysfs" and "ro" not in (mount.get("options") or [])
        for mount in spec.get("mounts") or []
    )


def _may_write(linux: dict[str, Any], major: int, minor: int) -> bool:
    """Return whether the device rules allow writing: allowed access adds up, denied is taken."""
    access: set[str] | None = None
    for rule in (linux.get("resources") or {}).get("devices") or []:
        matches = rule.get("type") in ("b", "a", "", None) and all(
            rule.get(key) in (None, -1, number)
            for key, number in (("major", major), ("minor", minor))
        )
        if matches:
            named = set(str(rule.get("access") or "rwm"))
            access = (access or set()) | named if rule.get("allow") else (access or set()) - named
    return access is None or "w" in access
