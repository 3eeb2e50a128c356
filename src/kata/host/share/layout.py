"""The folder a sandbox shares with its guest, laid out as Kata's.

    /run/kata-containers/shared/sandboxes/<id>/mounts     what the host puts in
    /run/kata-containers/shared/sandboxes/<id>/shared     the same, served by virtiofsd

``mounts`` is bound onto ``shared`` as a slave, so what is mounted there later arrives, and nothing
the guest does can travel back.  All mounts are made in the shim's own mount namespace: when the
shim and virtiofsd are gone, however they ended, so are the mounts.
"""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass

from kata.base import mountinfo, syscalls
from kata.base.errors import Code, KataError

ROOT = "/run/kata-containers/shared/sandboxes"
GUEST_FOLDER = "/run/kata-containers/shared/containers"
TAG = "kataShared"


@dataclass(frozen=True, slots=True)
class SharedFolderPaths:
    """Host paths of one sandbox's shared folder."""

    base: str
    mounts: str
    shared: str


def shared_paths(sandbox_id: str) -> SharedFolderPaths:
    """Return the paths of a sandbox."""
    base = f"{ROOT}/{sandbox_id}"
    return SharedFolderPaths(base, f"{base}/mounts", f"{base}/shared")


def prepare_shared_folder(paths: SharedFolderPaths) -> None:
    """Make the folders and bind one onto the other."""
    os.makedirs(os.path.dirname(paths.base), mode=0o700, exist_ok=True)
    os.mkdir(paths.base, mode=0o700)
    # In the guest these are the root of the share, which mapped users have to pass.
    os.mkdir(paths.mounts, mode=0o711)
    os.mkdir(paths.shared, mode=0o711)
    syscalls.mount(paths.mounts, paths.mounts, "", syscalls.MS_BIND)
    syscalls.mount("", paths.mounts, "", syscalls.MS_SHARED)
    syscalls.mount(paths.mounts, paths.shared, "", syscalls.MS_BIND | syscalls.MS_REC)
    # A slave of "mounts", and shared again so that virtiofsd's namespace gets what comes later.
    syscalls.mount("", paths.shared, "", syscalls.MS_SLAVE)
    syscalls.mount("", paths.shared, "", syscalls.MS_SHARED)


class ShareNames:
    """What containers' files are called in one shared folder; no name is given twice.

    A guest knows for a second what a name was, and a container may be created again at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given: dict[str, int] = {}

    def take(self, container_id: str) -> str:
        """Return the name for a new container."""
        with self._lock:
            count = self._given.get(container_id, 0) + 1
            self._given[container_id] = count
        return container_id if count == 1 else f"{container_id}~{count}"  # which no id can be


class DetachedMounts:
    """The mounts of a shared folder on their way into another mount namespace."""

    def __init__(self, paths: SharedFolderPaths) -> None:
        """To be made where the folder was prepared, and used where it shall be."""
        self._trees = [syscalls.clone_mount(path, 0, recursive=False) for path in _mounted(paths)]

    def attach(self, paths: SharedFolderPaths) -> None:
        """Mount what is served at ``paths``, where the folder has been moved to by now."""
        for tree, target in zip(self._trees, _mounted(paths), strict=True):
            syscalls.move_mount(tree, target)

    def close(self) -> None:
        """Let go of the mounts; those that were attached stay."""
        for tree in self._trees:
            os.close(tree)
        self._trees = []


def _mounted(paths: SharedFolderPaths) -> tuple[str, str]:
    return paths.mounts, paths.shared


def bind_into_share(tree_fd: int, target: str, *, read_only: bool, recursive: bool = False) -> None:
    """Attach a copy of a file or folder of the host in the shared folder; borrows it.

    ``recursive`` makes what is mounted below read-only as well.
    """
    if stat.S_ISDIR(os.fstat(tree_fd).st_mode):
        os.makedirs(target, mode=0o755, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
    if read_only:
        syscalls.protect_mount(tree_fd, recursive=recursive)
    syscalls.move_mount(tree_fd, target)


def unmount_below(folder: str) -> None:
    """Unmount everything at and beneath ``folder``, the last mounted first.

    Others may do the same meanwhile.
    """
    for point in mountinfo.find_mounts_below(folder):
        try:
            syscalls.umount(point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except OSError:
            if point in mountinfo.find_mounts_below(folder):
                raise


def remove_skeleton(folder: str) -> None:
    """Remove the empty folders and empty files that served as mount points, and nothing else.

    Never descends where something is still mounted; raises FAILED_PRECONDITION instead, so that a
    volume's data cannot be deleted through a mount that was left.  Others may remove parts of it
    meanwhile: a container ends while its sandbox does.
    """
    if not os.path.isdir(folder):
        return
    live = mountinfo.find_mounts_below(folder)
    if live:
        raise KataError(f"remove {folder}: {live[0]} is still mounted", Code.FAILED_PRECONDITION)
    for parent, folders, files in os.walk(folder, topdown=False):
        for name in files:
            _remove_empty(os.path.join(parent, name))
        for name in folders:
            _remove_empty(os.path.join(parent, name))
    _remove_empty(folder)


def _remove_empty(path: str) -> None:
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            os.rmdir(path)
        elif status.st_size == 0:
            os.unlink(path)
    except FileNotFoundError:
        pass  # somebody was faster
