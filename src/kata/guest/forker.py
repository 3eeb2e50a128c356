"""A process with one thread that forks, for an agent with many.

A fork copies the calling thread only, with whatever locks the others held.  So this process is made
before the agent's first thread, waits, and forks what enters containers (``entry``).
"""

from __future__ import annotations

import _socket
import marshal
import os

from kata.base import fdpass
from kata.guest import files, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

NAME = "kata-forker"
_MEMORY_NAME = "request"


class Forker:
    """The agent's end.  Any thread may call it."""

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock

    def load(self) -> None:
        """Have everything loaded that a request needs, for later ones to be quick."""
        fdpass.send(self._socket, [b""])

    def enter(
        self, process: Mapping[str, Any], cgroups: list[str], fds: Mapping[str, int]
    ) -> _socket.socket:
        """Start a process in a container (see entry.enter); returns what brings the answers.

        Descriptors are borrowed; the caller owns the socket.  Raises OSError without a forker.
        """
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        memory = os.memfd_create(_MEMORY_NAME, os.MFD_CLOEXEC)
        try:
            names = ["reply", *fds]
            # An environment may be larger than a message can.
            os.write(memory, marshal.dumps((dict(process), cgroups, names)))
            fdpass.send(self._socket, [], [memory, theirs.fileno(), *fds.values()])
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(memory)
            theirs.close()
        return ours


def start_forker() -> Forker:
    """Fork the forker.  To be called while there is one thread."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        try:
            _serve(theirs)
        finally:
            os._exit(1)
    theirs.close()
    return Forker(ours)


def _serve(requests: _socket.socket) -> NoReturn:
    """Serve until the agent has ended."""
    files.control("/proc/self/comm", NAME)
    # The first of each pair of processes is nobody's to wait for.
    signals.ignore(signals.SIGCHLD)
    while True:
        parts, fds = fdpass.receive(requests)
        if fds:
            _answer(requests, fds)
        elif parts:
            from kata.guest import entry  # noqa: F401
        else:
            os._exit(0)


def _answer(requests: _socket.socket, fds: list[int]) -> None:
    from kata.guest import entry

    if os.fork() == 0:
        requests.close()
        memory, *rest = fds
        process, cgroups, names = marshal.loads(os.pread(memory, os.fstat(memory).st_size, 0))
        entry.enter(process, cgroups, dict(zip(names, rest, strict=True)))
    for fd in fds:
        os.close(fd)
