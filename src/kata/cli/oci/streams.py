"""The stand-in of a process, started with its streams: what this program was given, or a terminal.

The stand-in is this program's child, and goes to whoever takes its orphans when it leaves: an
engine that is to learn how the process ended is a subreaper.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

from kata.base.errors import Code, KataError
from kata.base.processes import read_start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kata.cli.oci.task import Task

_PYTHON = "/usr/bin/python3"
_PROGRAM = os.path.join(os.path.dirname(__file__), "standin.py")
# Numbers of the stand-in's descriptors, after its streams.
_LISTENER, _LEASH = 3, 4
_BACKLOG = 1
_ID_BYTES = 8


class Console:
    """A terminal on the host.  The slave is the stand-in's, the master whoever shows it.

    The guest has the terminal that the process sees, with its line discipline; this one only
    carries what it says, so it is raw.
    """

    def __init__(self, size: Sequence[int] = ()) -> None:
        """Make it, with ``size`` (height, width) if that is known."""
        import fcntl
        import struct
        import termios
        import tty

        self.master, self.slave = os.openpty()
        self._name = os.ttyname(self.slave)
        tty.setraw(self.slave)
        if size and all(size):
            packed = struct.pack("HHHH", size[0], size[1], 0, 0)
            fcntl.ioctl(self.slave, termios.TIOCSWINSZ, packed)

    def send_master(self, sock: socket.socket) -> None:
        """Give the master end away, as runc does: with the terminal's name."""
        socket.send_fds(sock, [self._name.encode()], [self.master])

    def give_slave(self) -> None:
        """Close the slave end, which the stand-in has: the terminal ends with it."""
        os.close(self.slave)
        self.slave = -1

    def close(self) -> None:
        """Close both ends.  May be called twice."""
        for fd in (self.master, self.slave):
            if fd >= 0:
                os.close(fd)
        self.master = self.slave = -1


class Leash:
    """A stand-in that has been started.  Ends with this until ``let_go``."""

    def __init__(self, pid: int, leash: int) -> None:
        self.pid = pid
        self.start_time = read_start_time(pid) or 0
        self._leash = leash

    def let_go(self) -> None:
        """Let it live on when this program has ended."""
        os.close(self._leash)  # the shim has connected, and nobody looks at the other end any more

    def wait(self) -> int:
        """Return its exit status."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def open_console_socket(path: str) -> socket.socket:
    """Connect to the socket that waits for a terminal.  Raises KataError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise KataError(
            f"console socket {path}: {error.strerror}", Code.FAILED_PRECONDITION
        ) from error
    return sock


def start_stand_in(link: str, network: str | None, console: Console | None) -> Leash:
    """Start a stand-in that listens at ``link``.

    ``network`` is the path of its network namespace, empty for a new one, None for this program's.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    leash, ours = os.pipe()
    folder = os.open(os.path.dirname(link), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o077)
    try:
        # A path may be longer than an address can be.
        listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(link)}")
        listener.listen(_BACKLOG)
        argv = [
            _PYTHON,
            "-IS",
            _PROGRAM,
            str(_LISTENER),
            str(_LEASH),
            *(["tty"] if console else []),
        ]
        pid = _spawn([*_enter(network), *argv], (listener.fileno(), leash), console)
    except OSError as error:
        os.close(ours)
        raise KataError(f"start stand-in at {link}: {error.strerror}", Code.INTERNAL) from error
    finally:
        os.umask(mask)
        os.close(folder)
        os.close(leash)
        listener.close()
    return Leash(pid, ours)


def start_process(
    task: Task, process: dict[str, Any], folder: str, console: Console | None
) -> Leash:
    """Start one more process, with a stand-in that is found in ``folder`` meanwhile."""
    exec_id = f"exec-{os.urandom(_ID_BYTES).hex()}"
    link = f"{folder}/{exec_id}"
    stand_in = start_stand_in(link, None, console)
    try:
        document = json.dumps(process).encode()
        task.exec(exec_id, document, f"standin:{link}", terminal=console is not None)
        task.start(exec_id)
    except BaseException:
        os.kill(stand_in.pid, 9)
        stand_in.wait()
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):  # the folder goes with what it is of
            os.unlink(link)
    stand_in.let_go()
    if console is not None:
        console.give_slave()
    return stand_in


def _enter(network: str | None) -> list[str]:
    if network is None:
        return []
    if network:
        return ["/usr/bin/nsenter", f"--net={network}", "--"]
    return ["/usr/bin/unshare", "--net", "--"]


def _spawn(argv: Sequence[str], fds: Sequence[int], console: Console | None) -> int:
    import fcntl

    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in fds]
    actions: list[tuple[int, int, int]] = []
    if console is not None:
        actions += [(os.POSIX_SPAWN_DUP2, console.slave, fd) for fd in (0, 1, 2)]
    actions += [
        (os.POSIX_SPAWN_DUP2, fd, number)
        for fd, number in zip(moved, (_LISTENER, _LEASH), strict=True)
    ]
    try:
        return os.posix_spawn(argv[0], list(argv), {"PATH": os.defpath}, file_actions=actions)
    finally:
        for fd in moved:
            os.close(fd)
