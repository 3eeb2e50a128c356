"""Which sandboxes run: their folders and the shims' sockets in them, followed by inotify.

Whoever owns a ``Discovery`` waits until its descriptor can be read, and calls ``update`` then.
Others may read ``sandboxes`` at any time.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from kata.base import syscalls
from kata.base.errors import KataError
from kata.base.ids import check_id
from kata.base.statefolder import SOCKET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# inotify(7)
_MOVED, _CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0xC0, 0x100, 0x200, 0x400, 0x800
_OVERFLOW, _ONLYDIR, _ONESHOT = 0x4000, 1 << 24, 1 << 31
_EVENT = struct.Struct("=iIII")
_ROOT_MASK = _MOVED | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
# Of the folder above, the next event is enough: the watch is made anew while it is needed.
_ABOVE_MASK = _MOVED | _CREATE | _ONLYDIR | _ONESHOT
_WAITING_MASK = _MOVED | _CREATE | _ONLYDIR
# A sandbox that is known writes to its folder for as long as it runs, which wakes nobody.
_KNOWN_MASK = _DELETE_SELF | _ONLYDIR


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox that runs.  ``birth`` tells one from an earlier one with the same id."""

    id: str
    socket_path: str
    birth: tuple[int, int]


def is_there(sandbox: Sandbox) -> bool:
    """Look whether a sandbox still runs, which may have ended since it was found."""
    return _look(os.path.dirname(sandbox.socket_path)) == sandbox


class Discovery:
    """Follows the folder with the sandboxes' folders, also while it does not exist."""

    def __init__(self, root: str) -> None:
        """Find what runs now.  Raises KataError if even the folder above ``root`` is missing."""
        self.sandboxes: Mapping[str, Sandbox] = {}
        self._root = root
        self._inotify = syscalls.inotify_init()
        self._root_watch = self._above_watch = -1
        try:
            self._scan()
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor to wait for; it stays this object's."""
        return self._inotify

    def update(self) -> None:
        """Take in what has happened; returns at once.  Raises KataError."""
        if any(self._matters(*event) for event in self._read_events()):
            self._scan()

    def close(self) -> None:
        """Stop following.  May be called twice."""
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1

    def _matters(self, watch: int, mask: int, name: str) -> bool:
        return (
            bool(mask & _OVERFLOW)
            or watch in (self._root_watch, self._above_watch)
            or (name == SOCKET)
        )

    def _read_events(self) -> Iterator[tuple[int, int, str]]:
        try:
            data = os.read(self._inotify, 1 << 16)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, offset)
            offset += _EVENT.size + length
            yield watch, mask, os.fsdecode(data[offset - length : offset].rstrip(b"\0"))

    def _scan(self) -> None:
        """Look at everything.  Watches come first: what happens meanwhile is an event."""
        self._root_watch = self._watch(self._root, _ROOT_MASK)
        if self._root_watch < 0:
            above = os.path.dirname(self._root)
            self._above_watch = self._watch(above, _ABOVE_MASK)
            if self._above_watch < 0:
                raise KataError(f"watch {above}: no such directory")
            # It may have come between the two.
            self._root_watch = self._watch(self._root, _ROOT_MASK)
        found = (self._find_sandbox(name) for name in self._list_names())
        self.sandboxes = {sandbox.id: sandbox for sandbox in found if sandbox}

    def _list_names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._root)) if self._root_watch >= 0 else []
        except (FileNotFoundError, NotADirectoryError):
            return []  # removed since, which is an event

    def _find_sandbox(self, name: str) -> Sandbox | None:
        """Return a sandbox once its socket exists; its folder is watched until then."""
        try:
            check_id("sandbox", name)
        except KataError:
            return None  # a draft
        folder = f"{self._root}/{name}"
        found = _look(folder)
        if not found and self._watch(folder, _WAITING_MASK) >= 0:
            found = _look(folder)
        if found and found != self.sandboxes.get(name):
            self._watch(folder, _KNOWN_MASK)
        return found

    def _watch(self, path: str, mask: int) -> int:
        """Return the watch of a folder, with this mask from now on; -1 where there is none."""
        try:
            return syscalls.inotify_add_watch(self._inotify, path, mask)
        except (FileNotFoundError, NotADirectoryError):
            return -1
        except OSError as error:
            raise KataError(
                f"watch {path}: {error.strerror}",
                hint="see fs.inotify.max_user_watches" if error.errno == errno.ENOSPC else "",
            ) from error


def _look(folder: str) -> Sandbox | None:
    """Return the sandbox of a folder if its socket is there."""
    path = f"{folder}/{SOCKET}"
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Sandbox(os.path.basename(folder), path, (status.st_ino, status.st_mtime_ns))
