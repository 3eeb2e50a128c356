"""The descriptors that a new process starts with, and where the agent's ends of them go."""

from __future__ import annotations

import os

from kata.guest.streams import Input, Output, make_pipe
from kata.guest.terminal import ConsoleSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.exits import Exit


class Streams:
    """The agent's ends: what the host writes and reads.  A terminal has no separate errors."""

    __slots__ = ("master", "stderr", "stdin", "stdout")

    def __init__(self, stdin: Input, stdout: Output, stderr: Output | None, master: int) -> None:
        """``master`` is the terminal's descriptor, borrowed from ``stdout``; -1 without one."""
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.master = master

    @property
    def drained(self) -> bool:
        """Whether every output has been read to its end."""
        return self.stdout.ended and (self.stderr is None or self.stderr.ended)

    @property
    def unread(self) -> bool:
        """Whether no output was ever asked for."""
        return not self.stdout.asked and (self.stderr is None or not self.stderr.asked)

    def close(self) -> None:
        """Give all descriptors back.  May be called twice."""
        self.stdin.close()
        self.stdout.close()
        if self.stderr is not None:
            self.stderr.close()


class Stdio:
    """The process's ends, held while it is started: three pipes, or a console socket."""

    def __init__(self, fds: tuple[int, ...], console: ConsoleSocket | None) -> None:
        self._fds = fds
        self._console = console

    @property
    def fds(self) -> tuple[int | None, ...]:
        """Standard input, output and error for the runtime's program."""
        return self._fds or (None, None, None)

    @property
    def console_path(self) -> str:
        """Where the runtime sends the terminal; empty when there is none."""
        return self._console.path if self._console is not None else ""

    def receive_terminal(self, exit_: Exit) -> Streams:
        """Return the streams of the terminal that the runtime has sent."""
        if self._console is None:
            raise ValueError("this process has no terminal")
        master = self._console.receive()
        return Streams(Input(os.dup(master), exit_), Output(master, exit_), None, master)

    def close(self) -> None:
        """Give the process's ends back, so that its own closing them is the end of the stream."""
        for fd in self._fds:
            os.close(fd)
        self._fds = ()
        if self._console is not None:
            self._console.close()
            self._console = None


def open_pipes(uid: int, exit_: Exit) -> tuple[Stdio, Streams]:
    """Return the two sides of a process without a terminal that runs as ``uid``."""
    stdin, our_stdin = make_pipe(uid)
    our_stdout, stdout = make_pipe(uid)
    our_stderr, stderr = make_pipe(uid)
    streams = Streams(
        Input(our_stdin, exit_), Output(our_stdout, exit_), Output(our_stderr, exit_), -1
    )
    return Stdio((stdin, stdout, stderr), None), streams


def open_console(path: str) -> Stdio:
    """Return the process's side of a terminal that the runtime will send to ``path``."""
    return Stdio((), ConsoleSocket(path))
