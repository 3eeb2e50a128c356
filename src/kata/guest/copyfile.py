"""Files that the host copies into the guest, in chunks, below the shared folder only."""

from __future__ import annotations

import errno
import os
import stat

from kata.base import syscalls
from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.rpc.pb.agent_pb2 import CopyFileRequest

ROOT = "/run/kata-containers/shared/containers"
DEFAULT_FOLDER_MODE = 0o750
_RESOLVE = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_FOLDER = os.O_RDONLY | os.O_DIRECTORY


def copy(request: CopyFileRequest, root: str = ROOT) -> None:
    """Write one chunk of a file, or make a folder or a link.

    A file gets its name when its last byte is there; until then it has another.  Parents are made
    with ``dir_mode``.  Raises INVALID_ARGUMENT for what is not below ``root``, and for chunks that
    do not fit the file.
    """
    folders, name = split_path(request.path, root)
    os.makedirs(root, exist_ok=True)
    folder = _open_parent(root, folders, request.dir_mode or DEFAULT_FOLDER_MODE)
    kind = stat.S_IFMT(request.file_mode)
    try:
        if kind == stat.S_IFDIR:
            _make_folder(folder, name, request)
        elif kind == stat.S_IFLNK:
            _make_link(folder, name, request)
        elif kind in (0, stat.S_IFREG):
            _write_chunk(folder, name, request)
        else:
            raise KataError(
                f"copy {request.path}: mode {request.file_mode:o} is no file, folder or link",
                Code.INVALID_ARGUMENT,
            )
    except OSError as error:
        raise KataError(f"copy {request.path}: {error.strerror}", Code.INTERNAL) from error
    finally:
        os.close(folder)


def split_path(path: str, root: str) -> tuple[list[str], str]:
    """Return the folders and the name of ``path`` below ``root``.  Raises INVALID_ARGUMENT."""
    inside = path[len(root) + 1 :] if path.startswith(f"{root}/") else ""
    parts = inside.split("/")
    if not inside or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise KataError(f"copy {path!r}: not a path below {root}", Code.INVALID_ARGUMENT)
    return parts[:-1], parts[-1]


def _open_parent(root: str, folders: list[str], mode: int) -> int:
    """Open the folder of the new entry, making what is missing; the caller owns the descriptor."""
    current = os.open(root, _FOLDER | os.O_CLOEXEC)
    for name in folders:
        try:
            try:
                os.mkdir(name, dir_fd=current)
                os.chmod(name, stat.S_IMODE(mode), dir_fd=current)
            except FileExistsError:
                pass
            inner = syscalls.openat2(current, name, _FOLDER, resolve=_RESOLVE)
        except OSError as error:
            code = Code.INTERNAL
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
                code = Code.INVALID_ARGUMENT
            raise KataError(f"copy below {root}: {name!r} is no folder", code) from error
        finally:
            os.close(current)
        current = inner
    return current


def _make_folder(folder: int, name: str, request: CopyFileRequest) -> None:
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        pass
    fd = syscalls.openat2(folder, name, _FOLDER, resolve=_RESOLVE)
    try:
        os.fchown(fd, request.uid, request.gid)
        os.fchmod(fd, stat.S_IMODE(request.file_mode))
    finally:
        os.close(fd)


def _make_link(folder: int, name: str, request: CopyFileRequest) -> None:
    partial = partial_name(name)
    _unlink(folder, partial)
    os.symlink(request.data, os.fsencode(partial), dir_fd=folder)
    os.chown(partial, request.uid, request.gid, dir_fd=folder, follow_symlinks=False)
    os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)


def _write_chunk(folder: int, name: str, request: CopyFileRequest) -> None:
    end = request.offset + len(request.data)
    if not 0 <= request.offset <= end <= request.file_size:
        raise KataError(
            f"copy {request.path}: bytes {request.offset} to {end} of a file of"
            f" {request.file_size}",
            Code.INVALID_ARGUMENT,
        )
    partial = partial_name(name)
    if request.offset == 0:
        _unlink(folder, partial)
    flags, mode = os.O_WRONLY, 0
    if request.offset == 0:
        flags, mode = flags | os.O_CREAT | os.O_EXCL, 0o600
    fd = syscalls.openat2(folder, partial, flags, mode, _RESOLVE)
    try:
        size = os.fstat(fd).st_size
        if request.offset > size:
            raise KataError(
                f"copy {request.path}: the bytes {size} to {request.offset} are missing",
                Code.INVALID_ARGUMENT,
            )
        view, offset = memoryview(request.data), request.offset
        while view:
            written = os.pwrite(fd, view, offset)
            view, offset = view[written:], offset + written
        if end == request.file_size:
            os.fchown(fd, request.uid, request.gid)
            os.fchmod(fd, stat.S_IMODE(request.file_mode))
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        os.close(fd)


def partial_name(name: str) -> str:
    """Return the name that an unfinished file has, the same for all its chunks."""
    return f".kata-copy-{hash(name) & 0xFFFFFFFFFFFFFFFF:x}"


def _unlink(folder: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
