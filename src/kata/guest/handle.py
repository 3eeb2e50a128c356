"""A descriptor that several threads use and another closes.

Closing a descriptor under a thread that polls it would let that thread act on whatever gets the
same number next; so the last one to leave closes it.
"""

from __future__ import annotations

import os
import threading

from kata.base.errors import Code, KataError


class Handle:
    """Own a descriptor; ``enter``/``leave`` around each use, ``close`` when it is over."""

    __slots__ = ("_closing", "_lock", "_users", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._lock = threading.Lock()
        self._users = 0
        self._closing = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closing

    def enter(self) -> bool:
        """Begin a use; False when the descriptor is closed."""
        with self._lock:
            if self._closing:
                return False
            self._users += 1
            return True

    def leave(self) -> None:
        """End a use."""
        with self._lock:
            self._users -= 1
            last = self._closing and self._users == 0
        if last:
            os.close(self.fd)

    def __enter__(self) -> int:
        """Lend the descriptor.  Raises FAILED_PRECONDITION when it is closed."""
        if not self.enter():
            raise KataError("use descriptor: it is closed", Code.FAILED_PRECONDITION)
        return self.fd

    def __exit__(self, *_: object) -> None:
        self.leave()

    def close(self) -> None:
        """Close the descriptor as soon as nobody uses it.  May be called twice."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            last = self._users == 0
        if last:
            os.close(self.fd)
