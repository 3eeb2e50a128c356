"""Copies of what the host has mounted somewhere, for the shared folder, without its kernel.

A tree is a detached mount with those below it.  It is put together of single mounts, each looked
at: what is mounted below a volume may be the host's /proc, /sys, /dev or cgroups, and those leave
empty folders.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from kata.base import kernelfs, mountinfo, syscalls
from kata.base.hostview import HostView


@dataclass(frozen=True, slots=True)
class Part:
    """A single mount, detached, and its place below the tree's root.  Owned by its list."""

    path: str
    fd: int


def clone_tree(view: HostView, source: str, scratch: str, *, recursive: bool) -> int:
    """Return a detached copy of what the engine has mounted at ``source``; the caller owns it.

    ``scratch`` is a folder where nothing that is mounted gets to other mount namespaces.
    Raises OSError.
    """
    root, parts = view.run(lambda: _clone_single(source, recursive=recursive))
    return _assemble(root, parts, scratch)


def clone_own_tree(source: str, scratch: str) -> int:
    """Return the same of what this process has mounted."""
    root, parts = _clone_single(source, recursive=True)
    return _assemble(root, parts, scratch)


def clone_part(folder: str, path: str) -> Part | None:
    """Clone what is mounted at a path below a folder.

    None if it belongs to the kernel, or is not to be seen.
    """
    try:
        fd = syscalls.clone_mount(f"{folder}/{path}", syscalls.MS_PRIVATE, recursive=False)
    except OSError:
        return None  # covered by another, or gone
    if kernelfs.find_type(f"/proc/thread-self/fd/{fd}"):
        os.close(fd)
        return None
    return Part(path, fd)


def attach_part(part: Part, folder: str) -> None:
    """Mount a part in its place; borrows it.  Raises OSError."""
    target = _open_below(part.path, folder)
    try:
        syscalls.move_mount_onto(part.fd, target)
    finally:
        os.close(target)


def detach_part(path: str, folder: str) -> None:
    """Unmount what is mounted at a path below a folder.  Raises OSError."""
    target = _open_below(path, folder)
    try:
        syscalls.umount(f"/proc/thread-self/fd/{target}", syscalls.MNT_DETACH)
    finally:
        os.close(target)


def list_below(folder: str, mounts: Sequence[mountinfo.Mount]) -> dict[str, str]:
    """Return what is mounted below a folder that a guest may see: paths, and ids of mounts.

    The outer ones come first.  ``folder`` has no links in it.
    """
    prefix = folder.rstrip("/") + "/"
    below = [mount for mount in mounts if mount.point.startswith(prefix) and mount.point != prefix]
    hidden = [mount.point + "/" for mount in below if mount.fstype in kernelfs.NAMES]
    seen = {
        mount.point[len(prefix) :]: mount.id
        for mount in below
        if not any(f"{mount.point}/".startswith(point) for point in hidden)
    }
    return dict(sorted(seen.items(), key=lambda item: item[0].count("/")))


def _open_below(path: str, folder: str) -> int:
    root = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A guest that writes there could have replaced a folder in the way by a link.
        resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
        return syscalls.openat2(root, path, os.O_PATH, resolve=resolve)
    finally:
        os.close(root)


def _clone_single(source: str, *, recursive: bool) -> tuple[int, list[Part]]:
    root = syscalls.clone_mount(source, syscalls.MS_PRIVATE, recursive=False)
    parts: list[Part] = []
    if recursive and stat.S_ISDIR(os.fstat(root).st_mode):
        folder = os.path.realpath(source)
        for path in list_below(folder, mountinfo.list_mounts()):
            part = clone_part(folder.rstrip("/"), path)
            if part is not None:
                parts.append(part)
    return root, parts


def _assemble(root: int, parts: Sequence[Part], scratch: str) -> int:
    """Return one tree of a root and what is below; takes them."""
    if not parts:
        return root
    with ExitStack() as stack:
        for fd in (root, *(part.fd for part in parts)):
            stack.callback(os.close, fd)
        place = tempfile.mkdtemp(prefix="tree-", dir=scratch)
        stack.callback(os.rmdir, place)
        syscalls.move_mount(root, place)
        stack.callback(syscalls.umount, place, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        for part in parts:
            try:
                attach_part(part, place)
            except FileNotFoundError:
                continue  # below what could not be seen
        return syscalls.clone_mount(place, syscalls.MS_PRIVATE, recursive=True)
