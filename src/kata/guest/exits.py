"""The end of one process: known once, waited for by many."""

from __future__ import annotations

import os
import threading

from kata.guest.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Exit:
    """An exit status that will be known, with a descriptor to poll beside a stream.

    The descriptor (``handle``) becomes readable at the end and stays so; ``close()`` gives it back.
    """

    def __init__(self, on_exit: Callable[[int], None] | None = None) -> None:
        """``on_exit`` is called once with the status, before any waiter returns; it is quick."""
        self._on_exit = on_exit
        self._done = threading.Event()
        self._status = 0
        self.handle = Handle(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))

    @property
    def status(self) -> int | None:
        """The exit status, or None while the process runs."""
        return self._status if self._done.is_set() else None

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit status, or None after ``timeout_s``."""
        return self._status if self._done.wait(timeout_s) else None

    def settle(self, status: int) -> None:
        """Record the end; for the reaper."""
        self._status = status
        try:
            if self._on_exit is not None:
                self._on_exit(status)
        finally:
            self._done.set()
            self.wake()

    def wake(self) -> None:
        """Make the descriptor readable: at the end, or because the streams are given up."""
        if self.handle.enter():
            try:
                os.eventfd_write(self.handle.fd, 1)
            finally:
                self.handle.leave()

    def close(self) -> None:
        """Give the descriptor back.  May be called twice."""
        self.handle.close()
