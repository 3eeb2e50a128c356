"""Decide how each mount of a container gets into the guest.  Pure but for ``probe``."""

from __future__ import annotations

import binascii
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kata.base.directvolume import DirectVolume
from kata.base.errors import Code, KataError
from kata.base.idmap import IdMaps, map_id, read_maps
from kata.host.sandbox.devices import GUESTS_OWN
from kata.host.sandbox.kernelmounts import plan_kernels_own
from kata.host.sandbox.sources import Probe, Source
from kata.host.share import layout
from kata.host.share.idmap import UNCHANGED, OwnerMaps
from kata.host.share.watched import GUEST_FOLDER as WATCHED_FOLDER

# Mount types that the guest makes itself; their source means nothing.
_VIRTUAL_TYPES = frozenset(
    {"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "devtmpfs"}
)
_GUEST_SANDBOX = "/run/kata-containers/sandbox"
_SHM = "/dev/shm"
_FOLLOWING = frozenset({"slave", "rslave"})
_MAPPING = frozenset({"idmap", "ridmap"})
# A container's id, a number and this make a file's name, of 255 bytes at most.
_MAX_BASE_BYTES = 100
_TRAVELLING = frozenset({"shared", "rshared"})


# Tells what stands behind a path, if that is a disk.
FindVolume = Callable[[str], DirectVolume | None]


@dataclass(frozen=True, slots=True)
class SharedMount:
    """One bind mount of a container: a host path and the name it has in the shared folder."""

    source: str
    name: str
    read_only: bool
    recursive: bool
    # Whether mounts that the host makes there later are to be seen.
    follows: bool = False
    # Whether what is mounted below is to be read-only as well.
    read_only_below: bool = False
    owners: OwnerMaps = UNCHANGED


@dataclass(frozen=True, slots=True)
class WatchedMount:
    """A volume of the host that is kept in step in the guest, under a name of the sandbox's."""

    source: str
    name: str
    owners: OwnerMaps = UNCHANGED


@dataclass(frozen=True, slots=True)
class GuestStorage:
    """Something the guest mounts by itself before the container starts (see agent.proto).

    The source of driver "blk" is a disk of the host, which is plugged in first.
    """

    driver: str
    source: str
    fstype: str
    options: tuple[str, ...]
    mount_point: str
    # Whose the files become (-1: nobody's), and whether only where the root is another's.
    fs_group: int = -1
    on_root_mismatch: bool = False


@dataclass(frozen=True, slots=True)
class MountPlan:
    """What the mounts of a container need on the host and in the guest."""

    shared: tuple[SharedMount, ...]
    storages: tuple[GuestStorage, ...]
    watched: tuple[WatchedMount, ...] = ()
    # Volumes that are disks: the path that stands for each, and how the guest mounts it.
    direct: tuple[tuple[str, GuestStorage], ...] = ()


def plan_mounts(
    share_name: str, spec: dict[str, Any], probe: Probe, find_volume: FindVolume
) -> MountPlan:
    """Rewrite the mounts of ``spec`` in place for the guest; returns what they need.

    ``share_name`` is what the container's files are called in the shared folder.
    Memory-backed volumes are made in the guest's memory, where they count as the pod's; volumes
    that are disks are plugged in; all other bind mounts are shared.  Raises UNIMPLEMENTED for what
    cannot be had.
    """
    direct: list[tuple[str, GuestStorage]] = []
    shared: list[SharedMount] = []
    storages: list[GuestStorage] = []
    watched: list[WatchedMount] = []
    mounts = spec.get("mounts") or []
    left_out: list[int] = []
    for index, mount in enumerate(mounts):
        options = mount.get("options") or []
        owners = _take_owners(mount)
        if not (mount.get("type") == "bind" or "bind" in options or "rbind" in options):
            _check_virtual(mount)
            continue
        source = mount.get("source") or ""
        _check_propagation(mount["destination"], options)
        volume = find_volume(source)
        if volume is not None:
            storages.append(_plan_disk(source, volume))
            direct.append((source, storages[-1]))
            _bind(mount, storages[-1].mount_point)
            continue
        facts = probe(source)
        if facts.special == "a character device" and facts.device in GUESTS_OWN:
            _bind(mount, source)  # the guest's node of the same name
            continue
        if facts.kernel:
            if plan_kernels_own(mount, facts, mounts):
                left_out.append(index)
            continue
        _check_source(mount["destination"], source, facts)
        if facts.watched:
            watched.append(WatchedMount(source, _name_volume(source), owners))
            _bind(mount, f"{WATCHED_FOLDER}/{watched[-1].name}")
            continue
        memory = _plan_memory(mount["destination"], facts, owners.maps)
        if memory:
            storages += memory
            _bind(mount, memory[-1].mount_point)
            continue
        shared.append(_plan_shared(f"{share_name}-{index:016x}", mount, owners))
        _bind(mount, f"{layout.GUEST_FOLDER}/{shared[-1].name}")
        if "ro" in options and (facts.mounts_below or shared[-1].follows):
            # As on a host, what is mounted below stays as it is.  In the guest a mount that appears
            # below a read-only one is so too, so here the host alone refuses writing.
            mount["options"] = [option for option in options if option != "ro"]
    for index in reversed(left_out):
        del mounts[index]
    return MountPlan(tuple(shared), tuple(storages), tuple(watched), tuple(direct))


def _bind(mount: dict[str, Any], source: str) -> None:
    """Have the guest bind one of its own paths."""
    mount["type"] = "bind"
    mount["source"] = source


def _plan_shared(prefix: str, mount: dict[str, Any], owners: OwnerMaps) -> SharedMount:
    """Return a mount of the host's; its name in the shared folder begins with ``prefix``."""
    options = mount.get("options") or []
    base = os.fsencode(os.path.basename(mount["destination"].rstrip("/")) or "root")
    return SharedMount(
        source=mount.get("source") or "",
        name=f"{prefix}-{os.fsdecode(base[:_MAX_BASE_BYTES])}",
        read_only="ro" in options or "rro" in options,
        recursive="rbind" in options,
        follows=not _FOLLOWING.isdisjoint(options),
        read_only_below="rro" in options,
        owners=owners,
    )


def name_direct_volume(source: str) -> str:
    """Return where the guest mounts the disk of a volume."""
    return f"{_GUEST_SANDBOX}/direct-volumes/{_name_volume(source)}"


def _plan_disk(source: str, volume: DirectVolume) -> GuestStorage:
    return GuestStorage(
        "blk",
        volume.device,
        volume.fstype,
        volume.options,
        name_direct_volume(source),
        volume.fs_group,
        volume.on_root_mismatch,
    )


def _take_owners(mount: dict[str, Any]) -> OwnerMaps:
    """Return a mount's maps, which are the host's to apply (OCI: uidMappings, gidMappings)."""
    maps = read_maps(mount)
    options = mount.get("options") or []
    for key in ("uidMappings", "gidMappings"):
        mount.pop(key, None)
    if not _MAPPING.isdisjoint(options):
        mount["options"] = [option for option in options if option not in _MAPPING]
    return OwnerMaps(maps, "ridmap" in options)


def _name_volume(source: str) -> str:
    """Return a name for a volume's copy: its kind and name, and what tells its path apart."""
    path = os.path.normpath(source)
    kind, name = path.split("/")[-2:]
    return f"{kind.rpartition('~')[2]}-{name[:200]}-{binascii.crc32(os.fsencode(path)):08x}"


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


def _check_source(destination: str, path: str, source: Source) -> None:
    if source.special:
        raise KataError(
            f"mount {destination}: {path} is {source.special} of the host, which a virtual machine"
            " cannot reach",
            Code.INVALID_ARGUMENT,
            "leave the volume out, or run the pod with another runtime class",
        )


def _plan_memory(destination: str, source: Source, maps: IdMaps) -> list[GuestStorage]:
    """Return what stands for a memory-backed volume in the guest, nothing for other volumes.

    All containers of a pod that name the same volume get the same one, also those that want a
    folder in it only (subPath).
    """
    size = f"size={source.size_bytes}"
    volume = source.volume
    if volume is None:
        if source.memory and destination.rstrip("/") == _SHM:
            options = ("nosuid", "nodev", "noexec", "mode=1777", size)
            return [GuestStorage("ephemeral", "tmpfs", "tmpfs", options, f"{_GUEST_SANDBOX}/shm")]
        return []
    whole = f"{_GUEST_SANDBOX}/ephemeral/{volume.device}"
    owner = _own_memory(volume.mode, volume.gid, maps)
    storages = [GuestStorage("ephemeral", "tmpfs", "tmpfs", (*owner, size), whole)]
    if volume.path_inside != "/":
        owner = _own_memory(source.mode, source.gid, maps)
        folder = f"{whole}{volume.path_inside}"
        storages.append(GuestStorage("local", "", "", owner, folder))
    return storages


def _own_memory(mode: int, gid: int, maps: IdMaps) -> tuple[str, ...]:
    """Return the options that give a folder to the user who has it on the host: root."""
    users, groups = maps
    owner = (f"uid={map_id(0, users)}",) if users else ()
    return (f"mode={mode:o}", f"fsgid={map_id(gid, groups)}", *owner)
