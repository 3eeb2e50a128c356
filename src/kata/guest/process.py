"""One process of a container, the first or an exec: its pid, streams and end."""

from __future__ import annotations

import os
import time

from kata.base.errors import Code, KataError
from kata.guest import signals, terminal
from kata.guest.exits import Exit
from kata.guest.handle import Handle
from kata.guest.stdio import open_console, open_pipes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.guest.stdio import Stdio, Streams
    from kata.guest.streams import Output


class Process:
    """A process from its start to the moment its end and output have been fetched."""

    def __init__(self, name: str, on_exit: Callable[[int], None] | None = None) -> None:
        """``name`` is for messages: ``container c1`` or ``exec e1 of container c1``."""
        self.name = name
        self.exit = Exit(on_exit)
        self.pid = 0
        self.waited_at = 0.0
        self._pidfd: Handle | None = None
        self._streams: Streams | None = None

    def launch(self, uid: int, console_path: str, start: Callable[[Stdio, Exit], int]) -> None:
        """Open the streams and let ``start`` run the process; undone when it fails.

        ``uid`` owns the pipes; with a ``console_path`` the process gets a terminal instead.
        """
        if console_path:
            stdio = open_console(console_path)
        else:
            stdio, self._streams = open_pipes(uid, self.exit)
        try:
            self.pid = start(stdio, self.exit)
            self._open_pidfd()
            if console_path:
                self._streams = stdio.receive_terminal(self.exit)
        except BaseException as error:
            stdio.close()
            if isinstance(error, KataError):
                self._add_last_words(error)
            self.abandon()
            raise
        stdio.close()

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended is no error."""
        signals.check(self.name, number)
        if self._pidfd is not None:
            signals.send(self._pidfd, number)

    def wait(self) -> int:
        """Return the exit status when there is one."""
        status = self.exit.wait()
        self.waited_at = time.monotonic()
        if status is None:
            raise AssertionError("a wait without a limit ended without a status")
        return status

    def write(self, data: bytes) -> None:
        """Write to standard input; nothing closes it."""
        if data:
            self._get_streams().stdin.write(data)
        else:
            self.close_stdin()

    def close_stdin(self) -> None:
        """End standard input.  A terminal has no end to give: as runc's shim, leave it open."""
        streams = self._get_streams()
        if streams.master < 0:
            streams.stdin.close()

    def stdout(self) -> Output:
        """Return standard output, or the terminal."""
        return self._get_streams().stdout

    def stderr(self) -> Output:
        """Return standard error.  Raises FAILED_PRECONDITION for a terminal, which has none."""
        stderr = self._get_streams().stderr
        if stderr is None:
            raise KataError(
                f"read stderr of {self.name}: it has a terminal", Code.FAILED_PRECONDITION
            )
        return stderr

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        streams = self._get_streams()
        if streams.master < 0:
            raise KataError(
                f"resize terminal of {self.name}: it has none", Code.FAILED_PRECONDITION
            )
        if rows > 0xFFFF or columns > 0xFFFF:
            raise KataError(
                f"resize terminal of {self.name}: {rows} x {columns} is too large",
                Code.INVALID_ARGUMENT,
            )
        with streams.stdout.borrow() as master:
            terminal.resize(master, rows, columns)

    @property
    def finished(self) -> bool:
        """Whether it has ended and somebody was told."""
        return self.waited_at > 0

    @property
    def drained(self) -> bool:
        """Whether its output has been read to the end."""
        return self._streams is None or self._streams.drained

    @property
    def unread(self) -> bool:
        """Whether nobody has ever asked for its output."""
        return self._streams is None or self._streams.unread

    def abandon(self) -> None:
        """Kill a process whose start failed half-way, and give everything back."""
        self.signal(signals.SIGKILL)
        self.close()

    def close(self) -> None:
        """Give all descriptors back; readers get the end.  May be called twice."""
        self.exit.wake()
        if self._streams is not None:
            self._streams.close()
        self.exit.close()
        if self._pidfd is not None:
            self._pidfd.close()

    def _open_pidfd(self) -> None:
        try:
            self._pidfd = Handle(os.pidfd_open(self.pid))
        except ProcessLookupError:
            pass  # it has ended and been collected already

    def _get_streams(self) -> Streams:
        if self._streams is None:
            raise KataError(f"use streams of {self.name}: not started", Code.FAILED_PRECONDITION)
        return self._streams

    def _add_last_words(self, error: KataError) -> None:
        """Add what the failed program wrote to standard error, where the error lacks it."""
        if self._streams is None or self._streams.stderr is None:
            return
        words = self._streams.stderr.peek().decode("utf-8", "replace").strip()
        if words and words not in error.message:
            error.hint = words
