"""What the source of a bind mount is: looked at on the host, told in words that plans use."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from kata.base import kernelfs, mountinfo
from kata.host.share.watched import is_watched

_EMPTY_DIR = "kubernetes.io~empty-dir"
# What is a door to something of the host's kernel; through a shared folder only its name arrives.
_SPECIAL = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True, slots=True)
class MemoryVolume:
    """A memory-backed emptyDir: the owner of its root, and which part of it is wanted."""

    # Number of its file system, major:minor.
    device: str
    mode: int
    gid: int
    path_inside: str = "/"


@dataclass(frozen=True, slots=True)
class Source:
    """What a bind mount's source on the host is.  ``size_bytes`` is its file system's."""

    exists: bool
    # What kind of special file it is; empty for files and folders.
    special: str = ""
    # Of a device: its numbers.
    device: tuple[int, int] = (0, 0)
    # Which of the kernel's own file systems it is on, and where there: / is the whole.
    kernel: str = ""
    kernel_path: str = "/"
    # Whether it is a volume that is copied, and again when it changes.
    watched: bool = False
    # Whether something is mounted beneath it.
    mounts_below: bool = False
    # Whether it is in memory (tmpfs); what follows is told of those only.
    memory: bool = False
    size_bytes: int = 0
    mode: int = 0
    gid: int = 0
    volume: MemoryVolume | None = None


Probe = Callable[[str], Source]


def probe_source(path: str) -> Source:
    """Look at a bind mount's source."""
    try:
        facts = os.stat(path)
        space = os.statvfs(path)
    except OSError:
        return Source(exists=False)
    if is_watched(path):
        return Source(exists=True, watched=True)
    special = _SPECIAL.get(stat.S_IFMT(facts.st_mode), "")
    mounts = mountinfo.list_mounts()
    place = os.path.realpath(path)
    own = mountinfo.find_mount_of(place, mounts)
    if not special:
        kernel = _find_kernels(place, own, mounts)
        if kernel:
            return Source(exists=True, kernel=kernel, kernel_path=_find_inside(place, own))
    below = any(mount.point.startswith(place.rstrip("/") + "/") for mount in mounts)
    if special or own is None or own.fstype != "tmpfs":
        device = (os.major(facts.st_rdev), os.minor(facts.st_rdev))
        return Source(exists=True, special=special, device=device, mounts_below=below)
    return Source(
        exists=True,
        mounts_below=below,
        memory=True,
        size_bytes=space.f_blocks * space.f_frsize,
        mode=stat.S_IMODE(facts.st_mode),
        gid=facts.st_gid,
        volume=_find_volume(path, own, mounts),
    )


def _find_kernels(place: str, own: mountinfo.Mount | None, mounts: list[mountinfo.Mount]) -> str:
    """Return which of the kernel's file systems a path without links is on, empty for none."""
    kernel = kernelfs.find_type(place)
    if kernel or own is None or own.point != place or own.fstype != "tmpfs":
        return kernel
    # Version 1's hierarchies are mounted one by one in a tmpfs on sysfs.
    if kernelfs.find_type(os.path.dirname(place)) != "sysfs":
        return ""
    prefix = f"{place}/"
    hierarchies = (m.fstype for m in mounts if m.point.startswith(prefix))
    return "cgroup" if any(fstype.startswith("cgroup") for fstype in hierarchies) else ""


def _find_inside(place: str, own: mountinfo.Mount | None) -> str:
    """Return where in its file system a path is; a mount point counts as the whole of cgroups."""
    if own is None:
        return place
    below = os.path.relpath(place, own.point)
    if own.fstype in ("cgroup", "cgroup2", "tmpfs"):
        return os.path.normpath(f"/{below}")
    return os.path.normpath(f"{own.root.rstrip('/')}/{below}")


def _find_volume(
    path: str, own: mountinfo.Mount, mounts: list[mountinfo.Mount]
) -> MemoryVolume | None:
    """Return the emptyDir that a path belongs to, by the mount that kubelet has made for it."""
    point = next((m.point for m in mounts if m.device == own.device and _is_empty_dir(m)), "")
    if not point:
        return None
    root = os.stat(point)
    below = os.path.relpath(os.path.realpath(path), own.point)
    return MemoryVolume(
        device=own.device,
        mode=stat.S_IMODE(root.st_mode),
        gid=root.st_gid,
        # Two slashes at the start would stay two (POSIX).
        path_inside=os.path.normpath(f"{own.root.rstrip('/')}/{below}"),
    )


def _is_empty_dir(mount: mountinfo.Mount) -> bool:
    # kubelet's folder of a volume: .../volumes/kubernetes.io~empty-dir/NAME
    return os.path.basename(os.path.dirname(mount.point)) == _EMPTY_DIR
