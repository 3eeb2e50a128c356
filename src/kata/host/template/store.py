"""Templates on disk: one folder each, complete or not there.

    <template_path>/<key>/memory          the guest's memory, with holes
    <template_path>/<key>/state           processors and devices, as the hypervisor saved them
    <template_path>/<key>/template.json   what both were when they were written

A template is made in a draft beside its place and moved there at the end.  One whose files are not
what was written is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from dataclasses import dataclass
from typing import NoReturn

from kata.base.errors import Code, KataError
from kata.host.template.memory import copy_pages

# The least recently used ones go when there are more.
_KEPT = 8
_MEMORY = "memory"
_STATE = "state"
_NOTE = "template.json"
# The unit of st_blocks (stat(2)).
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Template:
    """A template that was found good.  Owns the descriptor of its memory."""

    memory_fd: int
    memory_bytes: int
    state: bytes

    def close(self) -> None:
        """Let go of the memory."""
        os.close(self.memory_fd)


@dataclass(frozen=True, slots=True)
class Kept:
    """A template as a list shows it: its size without holes, its last use since the epoch."""

    key: str
    held_bytes: int
    used_at: float


class Store:
    """The templates below one folder."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def has(self, key: str) -> bool:
        """Return whether there is a template, good or not."""
        return os.path.exists(self._path(key))

    def open(self, key: str) -> Template | None:
        """Return a template, None when there is none.

        Raises DATA_LOSS for one that was cut short or changed; it has been removed.
        """
        path = self._path(key)
        try:
            with open(f"{path}/{_NOTE}", "rb") as file:
                note = json.load(file)
            _note_use(f"{path}/{_NOTE}")
            memory_fd = os.open(f"{path}/{_MEMORY}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            if not os.path.isdir(path):
                return None
            self._refuse(key, f"{os.path.basename(error.filename)} is missing", error)
        except (OSError, ValueError) as error:
            self._refuse(key, str(error), error)
        try:
            return self._check(key, note, memory_fd)
        except BaseException:
            os.close(memory_fd)
            raise

    def save(self, key: str, memory_fd: int, state: bytes) -> None:
        """Keep a template; one that came first stays.  Raises KataError when it cannot be kept."""
        draft = f"{self._folder}/.{os.getpid()}.{key}"
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            os.mkdir(draft, 0o700)
            try:
                _write_draft(draft, memory_fd, state)
                with contextlib.suppress(FileExistsError, OSError):
                    os.rename(draft, self._path(key))
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        except OSError as error:
            raise KataError(
                f"keep template in {self._folder}: {error.strerror}",
                Code.FAILED_PRECONDITION,
                "set template_path in [factory]",
            ) from error
        self._limit()

    def list(self) -> list[Kept]:
        """Return the templates, the last used first."""
        found = []
        for name in _list(self._folder):
            with contextlib.suppress(OSError):
                if not name.startswith("."):
                    held = os.stat(f"{self._folder}/{name}/{_MEMORY}").st_blocks * _BLOCK_BYTES
                    used_at = os.stat(f"{self._folder}/{name}/{_NOTE}").st_mtime
                    found.append(Kept(name, held, used_at))
        return sorted(found, key=lambda kept: -kept.used_at)

    def discard(self, key: str) -> None:
        """Remove a template; whoever has it open keeps what it has."""
        gone = f"{self._folder}/.{os.getpid()}.{key}.gone"
        with contextlib.suppress(OSError):
            os.rename(self._path(key), gone)
        shutil.rmtree(gone, ignore_errors=True)

    def sweep(self) -> None:
        """Remove the drafts of processes that were killed."""
        for name in _list(self._folder):
            pid = name[1:].partition(".")[0]
            if name.startswith(".") and pid.isdecimal() and not os.path.exists(f"/proc/{pid}"):
                shutil.rmtree(f"{self._folder}/{name}", ignore_errors=True)

    def clear(self) -> None:
        """Remove every template."""
        for name in _list(self._folder):
            if not name.startswith("."):
                self.discard(name)
        self.sweep()

    def _check(self, key: str, note: object, memory_fd: int) -> Template:
        try:
            with open(f"{self._path(key)}/{_STATE}", "rb") as file:
                state = file.read()
        except OSError as error:
            self._refuse(key, str(error), error)
        if not isinstance(note, dict) or note.get(_MEMORY) != _describe(memory_fd):
            self._refuse(key, "its memory is not what was saved")
        if note.get(_STATE) != zlib.crc32(state):
            self._refuse(key, "its state is not what was saved")
        return Template(memory_fd, os.fstat(memory_fd).st_size, state)

    def _refuse(self, key: str, reason: str, cause: BaseException | None = None) -> NoReturn:
        path = self._path(key)
        self.discard(key)
        raise KataError(f"use template {path}: {reason}", Code.DATA_LOSS) from cause

    def _limit(self) -> None:
        for kept in self.list()[_KEPT:]:
            self.discard(kept.key)

    def _path(self, key: str) -> str:
        return f"{self._folder}/{key}"


def _write_draft(draft: str, memory_fd: int, state: bytes) -> None:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    copy_fd = os.open(f"{draft}/{_MEMORY}", flags, 0o600)
    try:
        os.ftruncate(copy_fd, os.fstat(memory_fd).st_size)
        copy_pages(memory_fd, copy_fd)
        note = {_MEMORY: _describe(copy_fd), _STATE: zlib.crc32(state)}
    finally:
        os.close(copy_fd)
    with open(f"{draft}/{_STATE}", "xb") as file:
        file.write(state)
    with open(f"{draft}/{_NOTE}", "x") as file:
        json.dump(note, file)
    _note_use(f"{draft}/{_NOTE}")


def _note_use(path: str) -> None:
    # The time that the kernel would take itself is some milliseconds old.
    now = time.time_ns()
    os.utime(path, ns=(now, now))


def _describe(fd: int) -> list[int]:
    """Return what changes whenever a file does."""
    info = os.fstat(fd)
    return [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []
