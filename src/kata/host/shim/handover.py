"""What a starting process and its daemon tell each other, so that neither is left when one dies.

The daemon says that it serves, or why not.  The starting process says when the engine knows of the
daemon; one that nobody knows would run for ever.
"""

from __future__ import annotations

import socket

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Starter(Protocol):
        """The starting process as the daemon sees it."""

        def tell_ready(self) -> None:
            """Say that requests are served."""

        def tell_failure(self, reason: str) -> None:
            """Say why none will be."""

        def wait_known(self) -> bool:
            """Return whether the engine knows this daemon, once that is certain or cannot be.

            False when the starting process was killed; nothing was told then, but for the instant
            between its last word to the engine and its last word to us.
            """


_READY = b"\x01"
_KNOWN = b"\x02"
# A reason that is longer helps nobody.
_MESSAGE_BYTES = 4096


def make_pair() -> tuple[Daemon, Parent]:
    """Return what the starting process keeps, and what the daemon does."""
    ours, theirs = socket.socketpair()
    return Daemon(ours), Parent(theirs)


class Daemon:
    """A daemon as its starting process sees it.  Owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def wait_ready(self) -> None:
        """Return when it serves.  Raises KataError with its reason when it does not."""
        word = self._sock.recv(_MESSAGE_BYTES)
        if word != _READY:
            reason = word.decode("utf-8", "replace") or "the daemon was killed"
            raise KataError(f"start shim: {reason}", Code.INTERNAL)

    def tell_known(self) -> None:
        """Say that the engine knows it; a daemon that was not told ends."""
        try:
            self._sock.send(_KNOWN)
        except OSError:
            pass  # it was killed meanwhile, which the engine sees
        self.close()

    def close(self) -> None:
        """Leave it; a daemon that nobody told ends."""
        self._sock.close()


class Parent:
    """A starting process that has forked the daemon.  Owns its socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close what is the daemon's, in the starting process."""
        self._sock.close()

    def tell_ready(self) -> None:
        """See Starter."""
        self._tell(_READY)

    def tell_failure(self, reason: str) -> None:
        """See Starter."""
        self._tell(reason.encode()[:_MESSAGE_BYTES])

    def wait_known(self) -> bool:
        """See Starter."""
        try:
            word = self._sock.recv(len(_KNOWN))
        except OSError:
            word = b""
        self._sock.close()
        return word == _KNOWN

    def _tell(self, word: bytes) -> None:
        try:
            self._sock.send(word)
        except OSError:
            pass  # it was killed, which is seen later
