"""Decide how each mount of a container gets into the guest.  Pure but for ``probe_source``."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kata.base import mountinfo
from kata.base.errors import Code, KataError
from kata.host.share import layout

# Mount types that the guest makes itself; their source means nothing.
_VIRTUAL_TYPES = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}
)
_EMPTY_DIR = "kubernetes.io~empty-dir"
_GUEST_SANDBOX = "/run/kata-containers/sandbox"
_SHM = "/dev/shm"
_FOLLOWING = frozenset({"slave", "rslave"})
_TRAVELLING = frozenset({"shared", "rshared"})


@dataclass(frozen=True, slots=True)
class SharedMount:
    """One bind mount of a container: a host path and the name it has in the shared folder."""

    source: str
    name: str
    read_only: bool
    recursive: bool
    # Whether mounts that the host makes there later are to be seen.
    follows: bool = False


@dataclass(frozen=True, slots=True)
class GuestStorage:
    """Something the guest mounts by itself before the container starts (see agent.proto)."""

    driver: str
    source: str
    fstype: str
    options: tuple[str, ...]
    mount_point: str


@dataclass(frozen=True, slots=True)
class Source:
    """What a bind mount's source on the host is.  ``size_bytes`` is its file system's."""

    exists: bool
    memory: bool = False
    size_bytes: int = 0
    mode: int = 0
    gid: int = 0
    # Of a memory-backed emptyDir: its file system's number, and the source's path inside of it.
    volume: str = ""
    path_inside: str = "/"


Probe = Callable[[str], Source]


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What the mounts of a container need on the host and in the guest."""

    shared: tuple[SharedMount, ...]
    storages: tuple[GuestStorage, ...]


def probe_source(path: str) -> Source:
    """Look at a bind mount's source."""
    try:
        facts = os.stat(path)
        space = os.statvfs(path)
    except OSError:
        return Source(exists=False)
    mounts = mountinfo.list_mounts()
    own = mountinfo.find_mount_of(os.path.realpath(path), mounts)
    if own is None or own.fstype != "tmpfs":
        return Source(exists=True)
    volume = any(m.device == own.device and _is_empty_dir(m.point) for m in mounts)
    below = os.path.relpath(os.path.realpath(path), own.point)
    return Source(
        exists=True,
        memory=True,
        size_bytes=space.f_blocks * space.f_frsize,
        mode=stat.S_IMODE(facts.st_mode),
        gid=facts.st_gid,
        volume=own.device if volume else "",
        path_inside=os.path.normpath(f"{own.root}/{below}"),
    )


def plan_mounts(container_id: str, spec: dict[str, Any], probe: Probe) -> MountPlan:
    """Rewrite the mounts of ``spec`` in place for the guest; returns what they need.

    Memory-backed volumes are made in the guest's memory, where they count as the pod's; all other
    bind mounts are shared.  Raises UNIMPLEMENTED for what cannot be had.
    """
    shared: list[SharedMount] = []
    storages: list[GuestStorage] = []
    for index, mount in enumerate(spec.get("mounts") or []):
        options = mount.get("options") or []
        if not (mount.get("type") == "bind" or "bind" in options or "rbind" in options):
            _check_virtual(mount)
            continue
        source = mount.get("source") or ""
        _check_propagation(mount["destination"], options)
        memory = _plan_memory(mount["destination"], probe(source))
        mount["type"] = "bind"
        if memory:
            storages += memory
            mount["source"] = memory[-1].mount_point
            continue
        base = os.path.basename(mount["destination"].rstrip("/")) or "root"
        name = f"{container_id}-{index:016x}-{base}"
        follows = not _FOLLOWING.isdisjoint(options)
        shared.append(SharedMount(source, name, "ro" in options, "rbind" in options, follows))
        mount["source"] = f"{layout.GUEST_FOLDER}/{name}"
    return MountPlan(tuple(shared), tuple(storages))


def _check_virtual(mount: dict[str, Any]) -> None:
    if mount.get("type") not in _VIRTUAL_TYPES:
        raise KataError(
            f"mount {mount['destination']}: type {mount.get('type')!r} cannot be mounted"
            " from the host into a virtual machine",
            Code.UNIMPLEMENTED,
        )


def _check_propagation(destination: str, options: list[str]) -> None:
    found = sorted(_TRAVELLING.intersection(options))
    if found:
        raise KataError(
            f"mount {destination}: {found[0]}: mounts made in a virtual machine cannot travel"
            " to the host",
            Code.INVALID_ARGUMENT,
            "use mountPropagation None or HostToContainer (rslave)",
        )


def _plan_memory(destination: str, source: Source) -> list[GuestStorage]:
    """Return what stands for a memory-backed volume in the guest, nothing for other volumes.

    All containers of a pod that name the same volume get the same one, also those that want a
    folder in it only (subPath).
    """
    if not source.memory:
        return []
    size = f"size={source.size_bytes}"
    if destination.rstrip("/") == _SHM:
        options = ("nosuid", "nodev", "noexec", "mode=1777", size)
        return [GuestStorage("ephemeral", "tmpfs", "tmpfs", options, f"{_GUEST_SANDBOX}/shm")]
    if not source.volume:
        return []
    owned = (f"mode={source.mode:o}", f"fsgid={source.gid}")
    whole = f"{_GUEST_SANDBOX}/ephemeral/{source.volume}"
    if source.path_inside == "/":
        return [GuestStorage("ephemeral", "tmpfs", "tmpfs", (*owned, size), whole)]
    return [
        GuestStorage("ephemeral", "tmpfs", "tmpfs", ("mode=1777", size), whole),
        GuestStorage("local", "", "", owned, f"{whole}{source.path_inside}"),
    ]


def _is_empty_dir(path: str) -> bool:
    # kubelet's folder of a volume: .../volumes/kubernetes.io~empty-dir/NAME
    return os.path.basename(os.path.dirname(path)) == _EMPTY_DIR
