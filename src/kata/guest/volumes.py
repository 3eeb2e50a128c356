"""Volumes that the host keeps in step with its own: the Volumes service.

Changes are made in kubelet's order, so that whoever reacts to one finds everything that belongs to
it: folders and files, then the links to them (``..data`` before those that lead through it), each
by one rename, and what is gone in the end.
"""

from __future__ import annotations

import errno
import os
import stat
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.rpc.pb import volumes_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.rpc.server import Method

ROOT = "/run/kata-containers/sandbox/watchable"
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_FOLDER = os.O_RDONLY | os.O_DIRECTORY
# Below the longest name that a file may have, and nothing that kubelet uses.
_PARTIAL = "..kata-new"


class Volumes:
    """The volumes of a guest; one change at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {"Sync": (pb.SyncRequest, self._sync)}

    def _sync(self, request: pb.SyncRequest) -> Message:
        with self._lock:
            try:
                synchronize(request)
            except OSError as error:
                bad = error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV)
                raise KataError(
                    f"synchronize volume {request.name}: {error}",
                    Code.INVALID_ARGUMENT if bad else Code.INTERNAL,
                ) from error
        return Empty()


def synchronize(request: pb.SyncRequest, root: str = ROOT) -> None:
    """Make a volume below ``root`` hold what the request says.  Raises OSError, or KataError."""
    name = request.name
    if not name or "/" in name or "\0" in name or name in (".", ".."):
        raise KataError(f"synchronize volume {name!r}: no such name", Code.INVALID_ARGUMENT)
    wanted = {_check_path(entry.path): entry for entry in request.entries}
    os.makedirs(f"{root}/{name}", 0o755, exist_ok=True)
    volume = os.open(f"{root}/{name}", _FOLDER | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _remove_of_other_kind(volume, wanted)
        _make_all(volume, wanted)
        _remove_unwanted(volume, wanted)
    finally:
        os.close(volume)


def _check_path(path: str) -> str:
    if (path != "." and any(part in ("", ".", "..") for part in path.split("/"))) or "\0" in path:
        raise KataError(f"synchronize volume: bad path {path!r}", Code.INVALID_ARGUMENT)
    return path


def _make_all(volume: int, wanted: dict[str, pb.VolumeEntry]) -> None:
    # Parents come before what they hold.
    for path in sorted(wanted):
        if stat.S_ISDIR(wanted[path].mode):
            _make_folder(volume, wanted[path])
    for path in sorted(wanted):
        if stat.S_ISREG(wanted[path].mode):
            _make_file(volume, wanted[path])
    # "..data" sorts before the names of keys.
    for path in sorted(wanted, key=lambda path: (not path.startswith(".."), path)):
        if stat.S_ISLNK(wanted[path].mode):
            _make_link(volume, wanted[path])


def _make_folder(volume: int, entry: pb.VolumeEntry) -> None:
    parent, name = _open_parent(volume, entry.path)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        fd = syscalls.openat2(parent, name, _FOLDER, resolve=_RESOLVE)
    finally:
        os.close(parent)
    try:
        _own(fd, entry)
    finally:
        os.close(fd)


def _make_file(volume: int, entry: pb.VolumeEntry) -> None:
    parent, name = _open_parent(volume, entry.path)
    try:
        if _holds(parent, name, entry):
            return
        _unlink(parent, _PARTIAL)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = syscalls.openat2(parent, _PARTIAL, flags, 0o600, _RESOLVE)
        try:
            view = memoryview(entry.content)
            while view:
                view = view[os.write(fd, view) :]
            _own(fd, entry)
        finally:
            os.close(fd)
        os.rename(_PARTIAL, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def _make_link(volume: int, entry: pb.VolumeEntry) -> None:
    parent, name = _open_parent(volume, entry.path)
    try:
        try:
            if os.readlink(os.fsencode(name), dir_fd=parent) == entry.content:
                return
        except FileNotFoundError:
            pass
        _unlink(parent, _PARTIAL)
        os.symlink(entry.content, os.fsencode(_PARTIAL), dir_fd=parent)
        os.chown(_PARTIAL, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.rename(_PARTIAL, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:
        os.close(parent)


def _holds(parent: int, name: str, entry: pb.VolumeEntry) -> bool:
    """Whether a file is as wanted; its owner and mode are made so without a new file."""
    try:
        fd = syscalls.openat2(parent, name, os.O_RDONLY, resolve=_RESOLVE)
    except FileNotFoundError:
        return False
    try:
        if os.fstat(fd).st_size != len(entry.content) or _read(fd) != entry.content:
            return False
        _own(fd, entry)
        return True
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)


def _own(fd: int, entry: pb.VolumeEntry) -> None:
    """Set owner and mode where they differ, as each change would be told by inotify."""
    now = os.fstat(fd)
    if (now.st_uid, now.st_gid) != (entry.uid, entry.gid):
        os.fchown(fd, entry.uid, entry.gid)
    if stat.S_IMODE(os.fstat(fd).st_mode) != stat.S_IMODE(entry.mode):
        os.fchmod(fd, stat.S_IMODE(entry.mode))


def _remove_of_other_kind(volume: int, wanted: dict[str, pb.VolumeEntry]) -> None:
    """Remove what has become a file, folder or link instead."""
    for path, mode in _list(volume):
        entry = wanted.get(path)
        if entry is not None and stat.S_IFMT(entry.mode) != stat.S_IFMT(mode):
            _remove(volume, path)


def _remove_unwanted(volume: int, wanted: dict[str, pb.VolumeEntry]) -> None:
    """Remove what is not wanted: links before the folders that they lead to."""
    gone = [(path, mode) for path, mode in _list(volume) if path not in wanted]
    for path, _ in sorted(gone, key=lambda item: (stat.S_ISDIR(item[1]), item[0])):
        _remove(volume, path)


def _list(volume: int, below: str = "") -> list[tuple[str, int]]:
    """Return paths and modes of everything in the volume, folders before what they hold."""
    found: list[tuple[str, int]] = []
    fd = syscalls.openat2(volume, below or ".", _FOLDER, resolve=_RESOLVE)
    try:
        for name in sorted(os.listdir(fd)):
            mode = os.lstat(name, dir_fd=fd).st_mode
            path = f"{below}/{name}" if below else name
            found.append((path, mode))
            if stat.S_ISDIR(mode):
                found += _list(volume, path)
    finally:
        os.close(fd)
    return found


def _remove(volume: int, path: str) -> None:
    """Remove a file, a link or a folder with what is in it; nothing there is no error."""
    try:
        parent, name = _open_parent(volume, path)
    except FileNotFoundError:
        return
    try:
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            fd = syscalls.openat2(parent, name, _FOLDER, resolve=_RESOLVE)
            try:
                names = os.listdir(fd)
            finally:
                os.close(fd)
            for inner in names:
                _remove(volume, f"{path}/{inner}")
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            pass
    finally:
        os.close(parent)


def _open_parent(volume: int, path: str) -> tuple[int, str]:
    """Return a descriptor of the folder of ``path``, which the caller owns, and its name there."""
    folder, _, name = path.rpartition("/")
    return syscalls.openat2(volume, folder or ".", _FOLDER, resolve=_RESOLVE), name


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
