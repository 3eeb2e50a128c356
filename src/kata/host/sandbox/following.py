"""Volumes in which mounts of the host appear that are made later (``rslave``), but its kernel's.

The kernel hands on mounts of any kind, so what arrives does so in a copy that nobody serves, and
from there single mounts are put into the shared folder (`trees.py`).
"""

from __future__ import annotations

import os
import select
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kata.base import mountinfo, syscalls
from kata.base.errors import describe_error
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.host.sandbox import trees
from kata.host.sandbox.mounts import SharedMount

_GONE = syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW


@dataclass(slots=True)
class _Followed:
    """The copy that follows, the folder that is served, and which mounts that has by now."""

    copy: str
    served: str
    read_only: bool
    known: dict[str, str] = field(default_factory=dict)


class FollowedMounts:
    """Follows the host's mounts below some volumes; costs nothing until there is one."""

    def __init__(self, scratch: str, log: Logger) -> None:
        """``scratch`` is a folder where nothing that is mounted gets to other namespaces."""
        self._scratch = scratch
        self._log = log
        self._followed: list[_Followed] = []
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] = (-1, -1)

    def clone(self, view: HostView, mount: SharedMount, served: str) -> int:
        """Return a tree for the folder ``served``, owned by the caller, and note to follow it."""
        tree = view.clone(mount.source, recursive=mount.recursive, follows=True)
        try:
            copy = tempfile.mkdtemp(prefix="followed-", dir=self._scratch)
            followed = _Followed(copy, served, mount.read_only_below)
            self._followed.append(followed)
            syscalls.move_mount(tree, copy)
        finally:
            os.close(tree)
        followed.known = trees.list_below(copy, mountinfo.list_mounts())
        return trees.clone_own_tree(copy, self._scratch)

    def start(self) -> None:
        """Begin, once the folders are served."""
        if self._followed and self._thread is None:
            self._wake = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._run, name="follow", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Follow no more.  May be called twice."""
        if self._thread is not None:
            os.close(self._wake[1])
            self._thread.join()
            os.close(self._wake[0])
            self._thread = None
        for followed in self._followed:
            if os.path.ismount(followed.copy):
                syscalls.umount(followed.copy, _GONE)
            os.rmdir(followed.copy)
        self._followed = []

    def _run(self) -> None:
        # proc(5): a change of the namespace's mounts is an exceptional condition of this file.
        with open("/proc/self/mountinfo", "rb") as file:
            poll = select.poll()
            poll.register(file, select.POLLPRI)
            poll.register(self._wake[0], select.POLLIN)
            while True:
                mounts = mountinfo.list_mounts("/proc/self/mountinfo")
                for followed in self._followed:
                    self._update(followed, trees.list_below(followed.copy, mounts))
                if any(fd == self._wake[0] for fd, _ in poll.poll()):
                    return

    def _update(self, followed: _Followed, found: dict[str, str]) -> None:
        for path in reversed([p for p, number in followed.known.items() if found.get(p) != number]):
            del followed.known[path]
            self._try(partial(trees.detach_part, path, followed.served))
        for path, number in found.items():
            if path in followed.known:
                continue
            followed.known[path] = number
            part = trees.clone_part(followed.copy, path)
            if part is not None:
                try:
                    if followed.read_only:
                        syscalls.protect_mount(part.fd, recursive=False)
                    self._try(partial(trees.attach_part, part, followed.served))
                finally:
                    os.close(part.fd)

    def _try(self, change: Callable[[], None]) -> None:
        try:
            change()
        except OSError as error:
            self._log.warning("mount not followed", error=describe_error(error))
