"""The stand-in of a process, started with its streams: what this program was given, or a terminal.

The stand-in is this program's child, and goes to whoever takes its orphans when it leaves: an
engine that is to learn how the process ended is a subreaper.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket

from kata.base.errors import Code, KataError
from kata.base.processes import read_start_time
from kata.cli.oci.child import Child
from kata.cli.oci.namespaces import Namespaces, Program, plan_beside, start_in
from kata.cli.oci.wait import hold_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from kata.cli.oci.task import Task

_PYTHON = "/usr/bin/python3"
_PROGRAM = os.path.join(os.path.dirname(__file__), "standin.py")
_BACKLOG = 1
_ID_BYTES = 8
# Of a command line so much is seen where processes are listed, as in the kernel's old days.
_SHOWN_BYTES = 4096


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

    def __init__(self, starter: Child, leash: int) -> None:
        """Owns both.  Raises KataError when there is none after all."""
        self._starter = starter
        self._leash = leash
        try:
            self.pid = int(starter.receive())
        except BaseException:
            starter.close()
            os.close(leash)
            raise
        self.start_time = read_start_time(self.pid) or 0

    def finish_start(self) -> None:
        """Return when it has loaded, and if it is an exec's has its root.  Raises KataError."""
        try:
            self._starter.receive()
        finally:
            self._starter.close()

    def let_go(self) -> None:
        """Let it live on when this program has ended."""
        os.close(self._leash)  # the shim has connected, and nobody looks at the other end any more

    def wait(self) -> int:
        """Return its exit status."""
        _, status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """End it, and what starts it."""
        self._starter.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.wait()


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


def start_stand_in(
    link: str, namespaces: Namespaces, args: Sequence[object], console: Console | None
) -> Leash:
    """Start a stand-in that listens at ``link``, for a process with the command line ``args``.

    The link's folder is mounted over in its namespaces.  Raises KataError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    leash, ours = os.pipe()
    folder = os.open(os.path.dirname(link), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o077)
    try:
        # A path may be longer than an address can be.
        listener.bind(f"/proc/self/fd/{folder}/{os.path.basename(link)}")
        listener.listen(_BACKLOG)
        streams = (0, 1, 2) if console is None else (console.slave,) * 3
        program = Program(
            (_PYTHON, "-IS", _PROGRAM, "tty" if console else "-", *_shorten(args)),
            (*streams, listener.fileno(), leash),
            os.path.dirname(link),
        )
        starter = Child("start stand-in", lambda tell: start_in(namespaces, program, tell))
    except OSError as error:
        os.close(ours)
        raise KataError(f"start stand-in at {link}: {error.strerror}", Code.INTERNAL) from error
    finally:
        os.umask(mask)
        os.close(folder)
        os.close(leash)
        listener.close()
    return Leash(starter, ours)


def start_process(
    connect: Callable[[], Task],
    process: dict[str, Any],
    folder: str,
    console: Console | None,
    beside: int = 0,
) -> Leash:
    """Start one more process, with a stand-in that is found in ``folder`` meanwhile.

    It is in the namespaces of another one, whose pid is ``beside``, or in this program's.
    """
    exec_id = f"exec-{os.urandom(_ID_BYTES).hex()}"
    link = f"{folder}/{exec_id}"
    namespaces = plan_beside(beside) if beside else Namespaces()
    try:
        # Before this program has threads, which it has while it is connected.
        stand_in = start_stand_in(link, namespaces, process["args"], console)
        try:
            with connect() as task:
                document = json.dumps(process).encode()
                task.exec(exec_id, document, f"standin:{link}", terminal=console is not None)
                hold_signals()
                task.start(exec_id)
            stand_in.finish_start()
        except BaseException:
            stand_in.kill()
            raise
    finally:
        with contextlib.suppress(FileNotFoundError):  # the folder goes with what it is of
            os.unlink(link)
    stand_in.let_go()
    if console is not None:
        console.give_slave()
    return stand_in


def _shorten(args: Sequence[object]) -> list[str]:
    """Return a command line that can be shown, in the bytes that a program can be given."""
    text = "\0".join(str(word).replace("\0", "?") for word in args)
    return text.encode("utf-8", "replace")[:_SHOWN_BYTES].decode("utf-8", "ignore").split("\0")
