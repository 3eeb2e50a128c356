"""Small volumes that kubelet changes (config maps, secrets ...), kept in step in the guest.

A shared file system does not tell the guest of the host's changes.  So these volumes are not shared
but copied, as a whole after each change; the guest works out what is new (kata.guest.volumes).
"""

from __future__ import annotations

import os
import select
import stat
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kata.base import syscalls
from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.rpc.pb import volumes_pb2

GUEST_FOLDER = "/run/kata-containers/sandbox/watchable"
# A volume that is larger at first is shared; one that grows more than this is left as it was.  A
# message holds 4 MiB.
FIRST_MAX_BYTES = 3 << 19
_MAX_BYTES = 7 << 19
_MAX_ENTRIES = 1000
# What kubelet calls the folders of volumes that it changes; the volume's own name comes below.
_KINDS = frozenset(
    {
        "kubernetes.io~configmap",
        "kubernetes.io~secret",
        "kubernetes.io~projected",
        "kubernetes.io~downward-api",
    }
)
# inotify(7)
_ATTRIB, _CLOSE_WRITE, _MOVED, _CREATE, _DELETE, _ONLYDIR = 0x4, 0x8, 0xC0, 0x100, 0x200, 1 << 24
_MASK = _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _ONLYDIR
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_EVENT = struct.Struct("=iIII")
# One change of kubelet's is several events; it is copied when all is quiet, or after a while.
_QUIET_MS = 50
_QUIET_ROUNDS = 10

Entries = list[volumes_pb2.VolumeEntry]


class TooLargeError(Exception):
    """A volume holds more than is copied."""


@dataclass(slots=True)
class _Volume:
    name: str
    tree_fd: int
    sent: Entries
    failed: bool = False


class WatchedVolumes:
    """Copies volumes to a guest, and again whenever they change, until it is closed."""

    def __init__(self, send: Callable[[str, Entries], None], log: Logger) -> None:
        """``send`` gives the guest a volume's name and content.  Raises KataError."""
        self._send = send
        self._log = log
        self._lock = threading.Lock()
        self._volumes: dict[str, _Volume] = {}
        self._names: dict[int, str] = {}
        self._inotify = syscalls.inotify_init()
        self._stop_reading, self._stop_writing = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="volumes", daemon=True)
        self._thread.start()

    def add(self, name: str, open_tree: Callable[[], int]) -> None:
        """Copy a volume, and follow it from now on; one that is known already is up to date.

        ``open_tree`` returns a descriptor of its folder, which this owns from then on.
        """
        with self._lock:
            if name in self._volumes:
                return
            tree_fd = open_tree()
            try:
                # Watched first: a change while it is copied is copied again.
                self._watch(name, tree_fd)
                entries = take_snapshot(tree_fd, _MAX_BYTES)
                self._send(name, entries)
            except BaseException as error:
                os.close(tree_fd)
                if isinstance(error, OSError | TooLargeError):
                    raise KataError(
                        f"copy volume {name}: {describe_error(error)}", Code.FAILED_PRECONDITION
                    ) from error
                raise
            self._volumes[name] = _Volume(name, tree_fd, entries)

    def close(self) -> None:
        """Stop.  May be called twice."""
        if self._stop_writing < 0:
            return
        os.close(self._stop_writing)
        self._stop_writing = -1
        self._thread.join()
        for fd in (self._stop_reading, self._inotify, *(v.tree_fd for v in self._volumes.values())):
            os.close(fd)
        self._volumes.clear()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._inotify, select.POLLIN)
        poll.register(self._stop_reading, select.POLLIN)
        changed: set[str] = set()
        rounds = 0
        while True:
            ready = [fd for fd, _ in poll.poll(_QUIET_MS if changed else None)]
            if self._stop_reading in ready:
                return
            if ready:
                changed |= self._read_events()
                rounds += 1
            if changed and (not ready or rounds >= _QUIET_ROUNDS):
                for name in changed:
                    self._update(name)
                changed, rounds = set(), 0

    def _read_events(self) -> set[str]:
        try:
            data = os.read(self._inotify, 1 << 16)
        except BlockingIOError:
            return set()
        found: set[str] = set()
        offset = 0
        with self._lock:
            while offset < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, offset)
                offset += _EVENT.size + length
                if mask & _OVERFLOW:  # something was lost, of whichever volume
                    found.update(self._volumes)
                elif mask & _IGNORED:  # the folder is gone, its number may come again
                    self._names.pop(watch, None)
                elif watch in self._names:
                    found.add(self._names[watch])
        return found

    def _update(self, name: str) -> None:
        with self._lock:
            volume = self._volumes.get(name)
            if volume is None:
                return  # its first copy is under way, or has failed
            try:
                self._watch(name, volume.tree_fd)
                entries = take_snapshot(volume.tree_fd, _MAX_BYTES)
                if entries != volume.sent:
                    self._send(name, entries)
                    volume.sent = entries
                volume.failed = False
            except (KataError, OSError, TooLargeError) as error:
                if not volume.failed:
                    self._log.warning(
                        "volume not brought up to date", volume=name, reason=describe_error(error)
                    )
                volume.failed = True

    def _watch(self, name: str, tree_fd: int) -> None:
        """Watch the volume's folders; those that are watched already stay so."""
        for path in _list_folders(tree_fd):
            try:
                watch = syscalls.inotify_add_watch(
                    self._inotify, f"/proc/self/fd/{tree_fd}/{path}", _MASK
                )
            except FileNotFoundError:
                continue  # removed meanwhile, which is an event of its parent
            self._names[watch] = name


def is_watched(path: str) -> bool:
    """Return whether a source is a volume that kubelet changes, small enough to be copied."""
    parent, name = os.path.split(os.path.normpath(path))
    if not name or os.path.basename(parent) not in _KINDS or not os.path.isdir(path):
        return False
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        take_snapshot(fd, FIRST_MAX_BYTES)
        return True
    except TooLargeError:
        return False
    finally:
        os.close(fd)


def take_snapshot(tree_fd: int, max_bytes: int) -> Entries:
    """Return all that a volume holds, as it was at one moment of kubelet's making.

    Raises TooLargeError, and OSError when it changes all the time.
    """
    for _ in range(5):
        before = _find_data(tree_fd)
        try:
            entries = _read_folder(tree_fd, ".", max_bytes)
        except FileNotFoundError:
            continue  # an older version was removed while it was read
        if _find_data(tree_fd) == before:
            return entries
    raise BlockingIOError(11, "it changes faster than it can be read")


def _find_data(tree_fd: int) -> str:
    """Return which version is the current one; empty for a volume without versions."""
    try:
        return os.readlink("..data", dir_fd=tree_fd)
    except OSError:
        return ""


def _list_folders(tree_fd: int) -> list[str]:
    found = ["."]
    for folder in found:
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree_fd)
        except OSError:
            continue  # removed meanwhile
        try:
            for name in os.listdir(fd):
                try:
                    if stat.S_ISDIR(os.lstat(name, dir_fd=fd).st_mode):
                        found.append(f"{folder}/{name}")
                except FileNotFoundError:
                    pass  # as above
        finally:
            os.close(fd)
    return found


def _read_folder(tree_fd: int, path: str, max_bytes: int) -> Entries:
    """Return a folder and what is below it; sockets and the like are left out."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=tree_fd)
    try:
        entries = [_entry(path, os.fstat(fd), b"")]
        used = 0
        for name in sorted(os.listdir(fd)):
            facts = os.lstat(name, dir_fd=fd)
            below = name if path == "." else f"{path}/{name}"
            if stat.S_ISDIR(facts.st_mode):
                inner = _read_folder(tree_fd, below, max_bytes - used)
                used += sum(len(entry.content) for entry in inner)
                entries += inner
                continue
            if stat.S_ISLNK(facts.st_mode):
                content = os.readlink(os.fsencode(name), dir_fd=fd)
            elif stat.S_ISREG(facts.st_mode):
                content = _read_file(fd, name, max_bytes - used)
            else:
                continue
            used += len(content)
            entries.append(_entry(below, facts, content))
            if used > max_bytes or len(entries) > _MAX_ENTRIES:
                raise TooLargeError(f"more than {max_bytes} bytes or {_MAX_ENTRIES} entries")
        return entries
    finally:
        os.close(fd)


def _read_file(folder_fd: int, name: str, max_bytes: int) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=folder_fd)
    try:
        parts = []
        left = max_bytes + 1
        while left > 0 and (part := os.read(fd, min(left, 1 << 16))):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _entry(path: str, facts: os.stat_result, content: bytes) -> volumes_pb2.VolumeEntry:
    return volumes_pb2.VolumeEntry(
        path=path, mode=facts.st_mode, uid=facts.st_uid, gid=facts.st_gid, content=content
    )
