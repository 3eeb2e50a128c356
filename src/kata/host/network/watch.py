"""Notice what an engine changes in a pod's network after the pod was started."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable

from kata.base.rtnetlink import NETLINK_ROUTE
from kata.host.network import namespace

# rtnetlink(7), groups: links, addresses and routes of both families.
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
# An engine makes a link, gives it addresses and routes: what comes in one go is told once.
_QUIET_MS = 100
_RECEIVE_BYTES = 1 << 16


class NetworkWatch:
    """Hears of changes from its making on; tells them from ``start`` until ``close``."""

    def __init__(self, netns_fd: int) -> None:
        """Begin to listen in a namespace; borrows the descriptor."""
        self._socket = namespace.run_inside(netns_fd, _listen)
        self._stop_reading, self._stop_writing = os.pipe2(os.O_CLOEXEC)
        self._thread: threading.Thread | None = None

    def start(self, on_change: Callable[[], None]) -> None:
        """Call ``on_change`` on a thread of its own after changes; it handles its own errors."""
        self._thread = threading.Thread(
            target=self._run, args=(on_change,), name="network", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop, and return when ``on_change`` is not called any more.  May be called twice."""
        if self._stop_writing < 0:
            return
        os.close(self._stop_writing)
        self._stop_writing = -1
        if self._thread is not None:
            self._thread.join()
        os.close(self._stop_reading)
        self._socket.close()

    def _run(self, on_change: Callable[[], None]) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop_reading, select.POLLIN)
        changed = False
        while True:
            ready = [fd for fd, _ in poll.poll(_QUIET_MS if changed else None)]
            if self._stop_reading in ready:
                return
            if ready:
                changed = True
                self._skip()
            else:
                changed = False
                on_change()

    def _skip(self) -> None:
        """Read what has come; what it says is looked up when all is quiet."""
        try:
            while True:
                self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except OSError:
            pass  # nothing more, or (ENOBUFS) more than the kernel could keep: look all the same


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
    try:
        listener.bind((0, _GROUPS))
    except BaseException:
        listener.close()
        raise
    return listener
