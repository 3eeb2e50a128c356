"""What a process reads and writes, as the host sees it: long polls on non-blocking descriptors."""

from __future__ import annotations

import fcntl
import os
import select
import threading

from kata.base.errors import Code, KataError
from kata.guest.handle import Handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.exits import Exit

F_SETPIPE_SZ = 1031
# The largest a pipe may be without privileges; a burst of output then rarely stops the process.
PIPE_SIZE = 1 << 20
# One answer must fit a ttrpc message (4 MiB); more than a full pipe cannot be there at once.
MAX_READ = 1 << 20
# Upstream's limit: a child that was left behind and keeps the pipe open does not hold the reader
# longer than this after the last output.
DRAIN_MS = 500


class Output:
    """A stream that the host reads.  Owns its descriptor."""

    def __init__(self, fd: int, exit_: Exit) -> None:
        """Take ``fd``: the reading end of a pipe, or a terminal's master."""
        os.set_blocking(fd, False)
        self._handle = Handle(fd)
        self._exit = exit_
        self.asked = False
        self.ended = False

    def read(self, limit: int) -> bytes:
        """Return up to ``limit`` bytes as soon as there are any; nothing at the end.

        The end is that of the stream, or, when the process has exited but a child keeps the stream
        open, a pause of DRAIN_MS.
        """
        if limit <= 0:
            raise KataError("read stream: a length of 0 was asked", Code.INVALID_ARGUMENT)
        self.asked = True
        data = b""
        if self._handle.enter():
            try:
                if self._exit.handle.enter():
                    try:
                        data = self._read(min(limit, MAX_READ))
                    finally:
                        self._exit.handle.leave()
            finally:
                self._handle.leave()
        if not data:
            self.ended = True
        return data

    def peek(self) -> bytes:
        """Return what is there now, at most 4 KiB; empty when there is nothing."""
        with self.borrow() as fd:
            return _read_ready(fd, 4096) or b""

    def borrow(self) -> Handle:
        """Return a context that lends the descriptor."""
        return self._handle

    def close(self) -> None:
        """Give the descriptor back; readers get the end.  May be called twice."""
        self.ended = True
        self._handle.close()

    def _read(self, limit: int) -> bytes:
        poll = select.poll()
        poll.register(self._handle.fd, select.POLLIN)
        poll.register(self._exit.handle.fd, select.POLLIN)
        timeout_ms = None
        while not self._handle.closed:
            ready = [fd for fd, _ in poll.poll(timeout_ms)]
            if self._handle.fd in ready:
                data = _read_ready(self._handle.fd, limit)
                if data is not None:
                    return data
            elif not ready:
                break
            elif timeout_ms is None:
                poll.unregister(self._exit.handle.fd)
                timeout_ms = DRAIN_MS
        return b""


class Input:
    """A stream that the host writes.  Owns its descriptor."""

    def __init__(self, fd: int, exit_: Exit) -> None:
        """Take ``fd``: the writing end of a pipe, or a terminal's master."""
        os.set_blocking(fd, False)
        self._handle = Handle(fd)
        self._exit = exit_
        self._lock = threading.Lock()  # one request's bytes stay together

    def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting while the process does not read.

        Raises FAILED_PRECONDITION when it has closed its end, or has exited.
        """
        with self._lock:
            if not self._handle.enter():
                raise KataError("write stdin: it is closed", Code.FAILED_PRECONDITION)
            try:
                self._write(memoryview(data))
            except (BrokenPipeError, ConnectionError) as error:
                raise _gone("closed its end") from error
            finally:
                self._handle.leave()

    def close(self) -> None:
        """Give the descriptor back once a write under way is over.  May be called twice."""
        self._handle.close()

    def _write(self, view: memoryview) -> None:
        fd = self._handle.fd
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BlockingIOError:
                if not self._exit.handle.enter():
                    raise _gone("was removed") from None
                try:
                    self._wait_writable()
                finally:
                    self._exit.handle.leave()
            except OSError as error:
                if error.errno == 5:  # EIO: nobody has the terminal open
                    raise _gone("closed its terminal") from error
                raise

    def _wait_writable(self) -> None:
        poll = select.poll()
        poll.register(self._handle.fd, select.POLLOUT)
        poll.register(self._exit.handle.fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll()]
        if self._handle.fd not in ready:
            raise _gone("has exited")


def make_pipe(uid: int) -> tuple[int, int]:
    """Return (reading, writing) of a large pipe that ``uid`` may open as /dev/stdout."""
    reading, writing = os.pipe()
    os.fchown(reading, uid, -1)
    try:
        fcntl.fcntl(writing, F_SETPIPE_SZ, PIPE_SIZE)
    except OSError:
        pass  # a limit of the kernel (pipe-user-pages-soft); the default size only makes it slower
    return reading, writing


def _read_ready(fd: int, limit: int) -> bytes | None:
    """Read what poll announced; None when another reader was faster."""
    try:
        return os.read(fd, limit)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == 5:  # EIO: the last process has closed its side of the terminal
            return b""
        raise


def _gone(what: str) -> KataError:
    return KataError(f"write stdin: the process {what}", Code.FAILED_PRECONDITION)
