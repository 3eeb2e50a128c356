"""A process with one thread that forks, for an agent with many.

A fork copies the calling thread only, with whatever locks the others held.  So this process is made
before the agent's first thread, waits, and forks what makes containers and enters them
(``birth``, ``entry``).
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys
import threading

from kata.base import fdpass, syscalls
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

NAME = "kata-forker"
_MEMORY_NAME = "request"
_ENTER = "enter"
_CREATE = "create"
_PYTHON = "/usr/bin/python3"
_SPAWNED_FD = 3


class Forker:
    """The agent's end.  Any thread may call it."""

    def __init__(self, sock: _socket.socket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self.restarts = 0

    def load(self) -> None:
        """Have everything loaded that a request needs, for later ones to be quick."""
        self._send([b""], [])

    def enter(
        self, process: Mapping[str, Any], cgroups: list[str], fds: Mapping[str, int]
    ) -> _socket.socket:
        """Start a process in a container (see entry.enter); returns what brings the answers.

        Descriptors are borrowed; the caller owns the socket.  A forker that was killed is replaced.
        Raises OSError when that fails.
        """
        return self._ask(_ENTER, (dict(process), cgroups), fds)

    def create(
        self, spec: Mapping[str, Any], name: str, cgroups: list[str], fds: Mapping[str, int]
    ) -> _socket.socket:
        """Start a container's first process (see birth.create); else as ``enter``."""
        return self._ask(_CREATE, (dict(spec), name, cgroups), fds)

    def _ask(self, kind: str, arguments: tuple[Any, ...], fds: Mapping[str, int]) -> _socket.socket:
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
        memory = os.memfd_create(_MEMORY_NAME, os.MFD_CLOEXEC)
        try:
            names = ["reply", *fds]
            # An environment may be larger than a message can.
            os.write(memory, marshal.dumps((kind, arguments, names)))
            self._send([], [memory, theirs.fileno(), *fds.values()])
        except BaseException:
            ours.close()
            raise
        finally:
            os.close(memory)
            theirs.close()
        return ours

    def _send(self, parts: list[bytes], fds: list[int]) -> None:
        sock = self._socket
        try:
            fdpass.send(sock, parts, fds)
            return
        except OSError:
            pass  # it was killed
        with self._lock:
            if self._socket is sock:
                self._socket = _spawn()
                self.restarts += 1
        fdpass.send(self._socket, parts, fds)


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


def serve_at(fd: int) -> NoReturn:
    """Be the forker in a process of its own, for the agent at the other end of a socket."""
    os.set_inheritable(fd, False)
    _serve(_socket.socket(fileno=fd))


def _spawn() -> _socket.socket:
    """Execute another forker, as an agent with threads cannot fork one; returns its socket."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from kata.guest.forker import serve_at; serve_at({_SPAWNED_FD})"
    )
    program = sys.executable or _PYTHON
    try:
        os.posix_spawn(
            program,
            [program, "-IS", "-c", code],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), _SPAWNED_FD)],
            setsigmask=(),
        )
    finally:
        theirs.close()
    return ours


def _serve(requests: _socket.socket) -> NoReturn:
    """Serve until the agent has ended."""
    files.control("/proc/self/comm", NAME)
    own_pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    while True:
        parts, fds = fdpass.receive(requests)
        if fds:
            _answer(requests, own_pids, fds)
        elif parts:
            from kata.guest import birth  # noqa: F401
        else:
            os._exit(0)


def _answer(requests: _socket.socket, own_pids: int, fds: list[int]) -> None:
    """Make the process that is asked for; what goes wrong from then on it tells itself."""
    from kata.guest import birth, entry

    memory, *rest = fds
    kind, arguments, names = marshal.loads(os.pread(memory, os.fstat(memory).st_size, 0))
    named = dict(zip(names, rest, strict=True))
    makes_pids = kind == _CREATE and birth.owns_pids(arguments[0])
    if makes_pids:
        # For the next child, until this process is back in its own.
        syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = -1
    try:
        pid = syscalls.fork_sibling()
    finally:
        if makes_pids and pid != 0:
            syscalls.setns(own_pids, syscalls.CLONE_NEWPID)
    if pid == 0:
        requests.close()
        os.close(own_pids)
        if kind == _CREATE:
            spec, name, cgroups = arguments
            birth.create(spec, name, cgroups, named)
        process, cgroups = arguments
        entry.enter(process, cgroups, named)
    for fd in fds:
        os.close(fd)
