"""A process of the host that stands for one in the guest: its streams, signals, terminal, end.

Engines that run an OCI command line know a container by a pid of the host.  The process of that pid
(kata.cli.oci.standin) listens at a socket in the container's state folder; the shim connects, and
from then on both live as long as the connection.

Messages, one a packet.  To the shim: ``r`` with the three streams' descriptors, once; ``s SIGNAL``;
``w ROWS COLUMNS``.  From it: ``x STATUS``.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kata.base import fdpass
from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger

SCHEME = "standin"
_MESSAGE_BYTES = 64
_STREAMS = 3
# It listens before the shim is asked.
_GREETING_S = 5.0


@dataclass(frozen=True, slots=True)
class Controls:
    """What the process on the host asks for."""

    signal: Callable[[int], None]
    resize: Callable[[int, int], None]
    # The process was killed, and what it stands for shall be.
    gone: Callable[[], None]


class StandIn:
    """The connection to the process.  ``streams`` are descriptors that belong to the caller."""

    def __init__(self, path: str, log: Logger) -> None:
        """Connect.  Raises FAILED_PRECONDITION when nothing listens at ``path``."""
        self._log = log
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(_GREETING_S)
        self._ended = False
        # Who reads closes, as closing does not wake a reader; before that it is who leaves.
        self._lock = threading.Lock()
        self._is_read = False
        try:
            connect(self._sock, path)
            _, self.streams, _ = fdpass.receive_bytes(self._sock, _MESSAGE_BYTES)
        except OSError as error:
            self._sock.close()
            raise KataError(f"connect to {path}: {error}", Code.FAILED_PRECONDITION) from error
        self._sock.settimeout(None)
        if len(self.streams) != _STREAMS:
            self.close()
            for fd in self.streams:
                os.close(fd)
            raise KataError(f"connect to {path}: no streams came", Code.FAILED_PRECONDITION)

    def follow(self, controls: Controls) -> None:
        """Pass on what it asks for, from a thread of its own, until it or this ends."""
        with self._lock:
            self._is_read = True
        threading.Thread(target=self._follow, args=(controls,), name="standin", daemon=True).start()

    def end(self, status: int) -> None:
        """Let it end with the exit status of what it stands for."""
        self._ended = True
        try:
            self._sock.send(b"x %d" % status)
        except OSError as error:
            self._log.debug("stand-in is gone", error=str(error))

    def close(self) -> None:
        """Leave it; one that was not told a status ends as if killed.  May be called twice."""
        self._ended = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has gone already
        with self._lock:
            if not self._is_read:
                self._sock.close()

    def _follow(self, controls: Controls) -> None:
        try:
            self._pass_on(controls)
        finally:
            self._sock.close()

    def _pass_on(self, controls: Controls) -> None:
        while words := self._receive():
            try:
                kind, *numbers = words.split()
                if kind == b"s":
                    controls.signal(int(numbers[0]))
                elif kind == b"w":
                    controls.resize(int(numbers[1]), int(numbers[0]))
            except (KataError, ValueError, IndexError) as error:
                # What it is for may have ended meanwhile.
                self._log.debug("stand-in's wish not met", error=describe_error(error))
        if not self._ended:
            controls.gone()

    def _receive(self) -> bytes:
        try:
            return self._sock.recv(_MESSAGE_BYTES)
        except OSError:
            return b""


def connect(sock: socket.socket, path: str) -> None:
    """Connect to a path that may be longer than an address can be.  Raises OSError."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


def reopen_output(fd: int) -> int:
    """Return a descriptor for the same file on which writing does not block, where that can be.

    The flag belongs to the open file, which others have as well: the user's own terminal, say.
    Regular files never block, and must be written where the others are in them.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            again = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            return fd  # the file's permissions have changed
        os.close(fd)
        return again
    if stat.S_ISSOCK(mode):
        os.set_blocking(fd, False)  # of this end alone, which nobody else reads or writes
    return fd
