"""Spares: forks of the factory with a machine that runs, which sandboxes get without waiting.

How many, the configuration says (``vm_cache_number``); of which kinds, the sandboxes that came
last.  They are made one after the other, and all end when the host is short of memory.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kata.base import fdpass
from kata.base.log import Logger
from kata.base.statefolder import ROOT
from kata.host.factory.spare import NO_TEMPLATE, READY, run_spare
from kata.host.resource.memory import MemoryWatch
from kata.host.sandbox.cleanup import clean_up, is_orphaned
from kata.host.sandbox.record import state_folder
from kata.host.sandbox.spare import PREFIX, spare_id
from kata.host.template.address import ORIGINAL

# A kind whose spare could not be made is not tried again before.
_RETRY_S = 600.0
# After the host was short of memory no spare is made for so long.
_PAUSE_S = 60.0
# So many hints are remembered.
_HINTS = 256
# A spare of a kind that so many sandboxes did not ask for makes room, times the pool's size.
_STALE = 4


class Fork(Protocol):
    """Runs ``work`` in a fork, and ``on_end`` with its exit status; returns its pid.

    The fork keeps the factory's descriptors that are named.
    """

    def __call__(self, work: Callable[[], int], on_end: Callable[[int], None], *kept: int) -> int:
        """See above."""


@dataclass(slots=True)
class Member:
    """A spare as the factory sees it."""

    kind: str
    pid: int
    control: socket.socket
    ready: bool = False


@dataclass(slots=True)
class Kind:
    """Sandboxes whose machines are alike."""

    described: dict[str, Any]
    asked: int  # at which count of sandboxes
    not_before: float = 0.0


class Pool:
    """The spares of one factory."""

    def __init__(self, fork: Fork, poller: select.poll, memory: MemoryWatch, log: Logger) -> None:
        """``fork`` runs a function in a fork, and another with its exit status; returns its pid."""
        self._fork = fork
        self._poller = poller
        self._memory = memory
        self._log = log
        self._members: dict[int, Member] = {}  # by their controls' descriptors
        self._kinds: dict[str, Kind] = {}
        self._hints: dict[str, str] = {}
        self._size = 0
        self._count = 0
        self._paused_until = 0.0
        if memory.fileno() >= 0:
            poller.register(memory, select.POLLPRI)

    def fds(self) -> list[int]:
        """Return what a fork of the factory has to close."""
        return [*self._members, *([self._memory.fileno()] if self._memory.fileno() >= 0 else [])]

    def describe(self) -> list[dict[str, object]]:
        """Return what there is (see admin.SpareStatus)."""
        found: list[dict[str, object]] = []
        for member in self._members.values():
            machine = json.loads(member.kind)["machine"]
            sizes = {key: machine[key] for key in ("memory_mib", "vcpus")}
            found.append({"pid": member.pid, "ready": member.ready, **sizes})
        return found

    def note(self, kind: dict[str, Any], hint: str, size: int) -> None:
        """Take down what a sandbox was, to be ready for the next; ``size`` is the pool's."""
        text = json.dumps(kind, sort_keys=True)
        self._count += 1
        self._size = size
        if hint:
            self._hints.pop(hint, None)
            self._hints[hint] = text
        for hint in list(self._hints)[:-_HINTS]:
            del self._hints[hint]
        known = self._kinds.pop(text, None)
        delay = known.not_before if known else 0.0
        self._kinds[text] = Kind(kind, self._count, 0.0 if delay == math.inf else delay)
        stale = [name for name, other in self._kinds.items() if self._is_stale(other)]
        for name in stale:
            del self._kinds[name]

    def forget(self, hint: str) -> None:
        """Have nothing for sandboxes of a hint any more."""
        self._hints.pop(hint, None)

    def take(self, hint: str) -> Member | None:
        """Return a spare for a sandbox, None when there is none.  It is the caller's."""
        kind = self._hints.get(hint)
        for fd, member in self._members.items():
            if member.ready and member.kind == kind:
                self._poller.unregister(fd)
                del self._members[fd]
                return member
        return None

    def refill(self) -> None:
        """Start a spare if one is missing and none is on its way, and end those too many."""
        for fd, member in list(self._members.items()):
            if member.kind not in self._kinds or len(self._members) > self._size:
                self._dismiss(fd)
        if len(self._members) >= self._size or time.monotonic() < self._paused_until:
            return
        if all(member.ready for member in self._members.values()):
            self._start()

    def close(self) -> set[int]:
        """Let all spares end; returns their pids."""
        pids = {member.pid for member in self._members.values()}
        for fd in list(self._members):
            self._dismiss(fd)
        return pids

    def handle(self, fd: int) -> bool:
        """Take what a descriptor is ready for; returns whether it was one of ours."""
        if fd == self._memory.fileno():
            self._drain()
            return True
        member = self._members.get(fd)
        if member is None:
            return False
        try:
            is_ready = fdpass.receive(member.control)[0] == [READY]
        except (OSError, ValueError):
            is_ready = False
        if is_ready:
            member.ready = True
        else:
            self._lose(fd)
        return True

    def _start(self) -> None:
        kind = next(
            (text for text in reversed(self._kinds) if self._may_start(self._kinds[text])), None
        )
        if kind is None:
            return
        described = self._kinds[kind].described
        if not self._memory.has_room(described["machine"]["memory_mib"]):
            self._log.info("no warm machine", reason="the host has no memory to spare")
            self._paused_until = time.monotonic() + _PAUSE_S
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> int:
            ours.close()
            return run_spare(described, theirs, self._log)

        pid = self._fork(run, lambda status: self._note_end(kind, pid, status), theirs.fileno())
        theirs.close()
        self._members[ours.fileno()] = Member(kind, pid, ours)
        self._poller.register(ours, select.POLLIN)

    def _may_start(self, kind: Kind) -> bool:
        return time.monotonic() >= kind.not_before

    def _note_end(self, text: str, pid: int, status: int) -> None:
        for fd, member in list(self._members.items()):
            if member.pid == pid:
                self._lose(fd)
        if status == NO_TEMPLATE and text in self._kinds:
            self._kinds[text].not_before = math.inf  # the next sandbox of the kind asks for one
        own_id = spare_id(pid)
        if os.path.exists(state_folder(own_id)):
            self._fork(partial(_clean_up, own_id), lambda _: None)

    def _lose(self, fd: int) -> None:
        """Note that a spare has ended; one that never was ready would fail again."""
        member = self._members[fd]
        if not member.ready and member.kind in self._kinds:
            self._kinds[member.kind].not_before = time.monotonic() + _RETRY_S
        self._dismiss(fd)

    def _dismiss(self, fd: int) -> None:
        """Let a spare end."""
        self._poller.unregister(fd)
        self._members.pop(fd).control.close()

    def _drain(self) -> None:
        if self._members:
            self._log.info("warm machines ended", reason="the host is short of memory")
        for fd in list(self._members):
            self._dismiss(fd)
        self._paused_until = time.monotonic() + _PAUSE_S

    def _is_stale(self, kind: Kind) -> bool:
        return self._count - kind.asked >= _STALE * max(1, self._size)


def sweep() -> int:
    """Remove what killed spares and builders have left; returns the exit status of a fork."""
    for name in os.listdir(ROOT):
        if name.startswith((PREFIX, ORIGINAL)) and is_orphaned(name):
            clean_up(name)
    return 0


def _clean_up(own_id: str) -> int:
    clean_up(own_id)
    return 0
