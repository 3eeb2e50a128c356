"""What of a container is seen through its stand-in: its root file system and its volumes.

Engines reach a container's files by the root and the namespaces of its pid.  Of what is in the
guest's memory they find an empty folder that cannot be written: a file that is put there would not
be in the container.  Of the kernel's file systems there are those that a namespace has for itself.
"""

from __future__ import annotations

import os

from kata.base import directvolume, kernelfs, syscalls
from kata.base.errors import describe_error
from kata.base.idmap import map_id, read_maps
from kata.base.mountinfo import find_mount_of
from kata.base.mountoptions import parse_options
from kata.base.record import dataclass
from kata.cli.oci.roottree import RootTree, clone_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, TypeVar

    from kata.base.mountinfo import Mount

    Result = TypeVar("Result")

_OWN = ("proc", "devpts", "mqueue")
_DEV, _SHM = "/dev", "/dev/shm"
_VOLUMES_IN_MEMORY = "kubernetes.io~empty-dir"
# Of the host's kernel, whatever the container may see of the guest's.
_MASKED = (
    "/proc/acpi", "/proc/asound", "/proc/cmdline", "/proc/config.gz", "/proc/diskstats",
    "/proc/driver", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
    "/proc/key-users", "/proc/kmsg", "/proc/latency_stats", "/proc/modules", "/proc/partitions",
    "/proc/sched_debug", "/proc/scsi", "/proc/swaps", "/proc/sysrq-trigger", "/proc/timer_list",
    "/proc/timer_stats", "/proc/vmallocinfo",
)  # fmt: skip
# Of a mount's flags those that are also attributes of it, with the same numbers.
_ATTRIBUTES = (
    syscalls.MOUNT_ATTR_RDONLY
    | syscalls.MOUNT_ATTR_NOSUID
    | syscalls.MOUNT_ATTR_NODEV
    | syscalls.MOUNT_ATTR_NOEXEC
)
_NAMESPACES = (
    ("pid", syscalls.CLONE_NEWPID),
    ("ipc", syscalls.CLONE_NEWIPC),
    ("mnt", syscalls.CLONE_NEWNS),
)
_DEFAULT_MODE = "mode=0755"
_NO_PROGRAMS = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Place:
    """What is at a path: something of the host's, a file system of the kernel's, or nothing."""

    target: str
    source: str = ""
    fstype: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class View:
    """All of it.  ``owner`` is root in the container, as uid and gid of the host."""

    rootfs: str
    places: tuple[Place, ...]
    masked: tuple[str, ...]
    read_only_paths: tuple[str, ...]
    read_only: bool
    propagation: str
    owner: tuple[int, int]


def plan_view(spec: dict[str, Any], rootfs: str, mounts: Sequence[Mount]) -> View:
    """Return what a container's stand-in shows; ``mounts`` are the host's."""
    linux = spec["linux"]
    users, groups = read_maps(linux)
    return View(
        rootfs=rootfs,
        places=tuple(
            place
            for mount in spec.get("mounts") or []
            if (place := _plan_place(mount, mounts)) is not None
        ),
        masked=tuple(dict.fromkeys((*_MASKED, *_texts(linux.get("maskedPaths"))))),
        read_only_paths=_texts(linux.get("readonlyPaths")),
        read_only=bool(spec["root"].get("readonly")),
        propagation=str(linux.get("rootfsPropagation") or ""),
        owner=(map_id(0, users), map_id(0, groups)),
    )


def _plan_place(mount: dict[str, Any], mounts: Sequence[Mount]) -> Place | None:
    # Two slashes at the start would stay two (POSIX).
    target = os.path.normpath("/" + str(mount["destination"]).lstrip("/"))
    options = _texts(mount.get("options"))
    kind = str(mount.get("type") or "")
    if kind == "bind" or "bind" in options or "rbind" in options:
        source = str(mount.get("source") or "")
        if directvolume.find(source):
            return Place(target)
        if _is_in_guest(source, target, mounts):
            return Place(target) if os.path.isdir(source) else None
        return Place(target, source=source, options=options)
    if kind in _OWN:
        return Place(target, fstype=kind, options=options)
    return Place(target, options=options)


def _is_in_guest(source: str, target: str, mounts: Sequence[Mount]) -> bool:
    """Return whether the guest has its own for a source (kata.host.sandbox.mounts)."""
    own = find_mount_of(os.path.realpath(source), mounts)
    if own is None or own.fstype in kernelfs.NAMES:
        return own is not None
    if own.fstype != "tmpfs":
        return False
    return target == _SHM or any(
        mount.device == own.device
        and os.path.basename(os.path.dirname(mount.point)) == _VOLUMES_IN_MEMORY
        for mount in mounts
    )


class Maker:
    """Makes a view, in a child of this program that ends afterwards.  Notes what is missing."""

    def __init__(self, view: View) -> None:
        """Take what is the host's, before it joins other namespaces.  Raises OSError for the root.

        Where ``/`` is not shared, what hooks have mounted is in this program's namespace alone.
        """
        self.missing: list[str] = []
        self._view = view
        self._root = clone_source(view.rootfs, [view.propagation], recursive=True)
        self._sources = {
            place: self._try(place.target, self._clone, place)
            for place in view.places
            if place.source
        }

    def make(self, folder: str, pid: int) -> None:
        """Give a stand-in this root; ``folder`` is mounted over in its namespace.

        Raises OSError.
        """
        view = self._view
        _join(pid)
        tree = RootTree(self._root, folder, view.owner)
        for place in view.places:
            self._try(place.target, self._place, tree, place, folder)
        for path in view.masked:
            self._try(path, tree.mask, path)
        for path in view.read_only_paths:
            self._try(path, tree.protect, path)
        tree.enter(read_only=view.read_only)

    def _try(self, path: str, step: Callable[..., Result], *words: object) -> Result | None:
        try:
            return step(*words)
        except OSError as error:
            self.missing.append(f"{path}: {describe_error(error)}")
            return None

    def _clone(self, place: Place) -> int:
        tree = clone_source(place.source, place.options, recursive="rbind" in place.options)
        attributes = parse_options(place.options).flags & _ATTRIBUTES
        syscalls.restrict_mount(tree, attributes, 0, recursive=False)
        below = syscalls.MOUNT_ATTR_RDONLY if "rro" in place.options else 0
        syscalls.restrict_mount(tree, below | syscalls.MOUNT_ATTR_NODEV, 0, recursive=True)
        return tree

    def _place(self, tree: RootTree, place: Place, folder: str) -> None:
        if place.source:
            fd = self._sources[place]
        elif place.fstype == "proc":
            fd = _mount_proc(folder)
        elif place.fstype:
            data = parse_options(place.options).data.split(",") if place.fstype == "devpts" else ()
            fd = syscalls.make_mount(place.fstype, [word for word in data if word], _NO_PROGRAMS)
        elif place.target == _DEV:
            tree.attach_devices(place.target)
            return
        else:
            modes = [word for word in place.options if word.startswith("mode=")]
            tree.attach_nothing(place.target, modes[-1] if modes else _DEFAULT_MODE)
            return
        if fd is not None:
            tree.attach(fd, place.target)
            os.close(fd)


def _join(pid: int) -> None:
    """Join a stand-in's namespaces."""
    opened = [
        (os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
        for name, kind in _NAMESPACES
    ]
    for fd, kind in opened:
        syscalls.setns(fd, kind)
        os.close(fd)


def _mount_proc(folder: str) -> int:
    """Return a detached /proc of the pid namespace that children of this process are in."""
    flags = syscalls.MS_NOSUID | syscalls.MS_NOEXEC | syscalls.MS_NODEV
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            syscalls.mount("proc", folder, "proc", flags)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        raise OSError(0, "mount proc failed")
    try:
        tree = syscalls.clone_mount(folder, syscalls.MS_PRIVATE, recursive=False)
        syscalls.protect_mount(tree, recursive=False)
        return tree
    finally:
        syscalls.umount(folder, syscalls.MNT_DETACH)


def _texts(found: object) -> tuple[str, ...]:
    return tuple(str(word) for word in found) if isinstance(found, list) else ()
