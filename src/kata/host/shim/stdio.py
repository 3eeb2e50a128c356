"""Copy a process's streams between the agent and what the engine gave: FIFOs, files, a logger.

The engine names each stream by a path or URI (containerd, core/runtime/v2/README.md, "IO"): a bare
path or ``fifo://`` is a FIFO, ``file://`` a file to append to, ``binary://`` a logging program.
``standin:`` is ours: a process of the host that stands for this one, and hands over its streams.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.host.sandbox.agent import Agent
from kata.host.shim.logger_plugin import LoggerPlugin
from kata.host.shim.standin import SCHEME, Controls, StandIn, reopen_output

# One read of output: large enough that 200 MB take a thousand requests, small in a shim's memory.
_OUTPUT_BYTES = 256 << 10
_INPUT_BYTES = 64 << 10
# A reader that takes nothing for this long is taken for gone (containerd's own shim: 2 s).
_STALL_S = 2.0
# What a loaded guest still has to say comes within this time; the agent itself ends a stream that
# a child keeps open.
_GUEST_S = 15.0


@dataclass(frozen=True, slots=True)
class StdioSpec:
    """The streams of a create or exec request; empty means there is none."""

    stdin: str
    stdout: str
    stderr: str
    terminal: bool


class TaskIo:
    """The host's ends of one process's streams: opened, copied from ``begin`` on, closed."""

    def __init__(
        self,
        spec: StdioSpec,
        owner: tuple[str, str],
        spawner: Spawner,
        log: Logger,
        controls: Controls,
    ) -> None:
        """Take the streams of ``spec`` for ``owner`` (namespace, container id).

        ``controls`` are for a process of the host that stands for this one.
        """
        self.terminal = spec.terminal
        self.spec = spec
        self.has_stand_in = urlsplit(spec.stdout).scheme == SCHEME
        self._controls = controls
        self._stand_in: StandIn | None = None
        self._owner = owner
        self._spawner = spawner
        self._log = log
        self._plugin: LoggerPlugin | None = None
        self._wake_read, self._wake_write = os.pipe()
        self._users = 1  # whoever closes this, and whoever opens it, and each pump
        self._closed = False
        self._lock = threading.Lock()
        self._pumps: list[threading.Thread] = []
        self._progress = time.monotonic()
        # Descriptors whose readers take nothing just now.
        self._blocked: set[int] = set()
        self._stdin = self._keeper = -1
        self._input_ended = False
        self._outputs: dict[str, int] = {}
        # Numbers that threads may still use, of streams that are let go.
        self._spent: set[int] = set()

    def open(self) -> None:
        """Open the streams.

        An exec's are opened when it is started, not when it is registered: until then ctr cannot
        tell the end of an input that is empty.  Raises FAILED_PRECONDITION when it was deleted
        before or meanwhile.
        """
        with self._lock:
            if self._closed:
                raise _deleted()
            self._users += 1
        try:
            if self.has_stand_in:
                self._open_stand_in()
            else:
                self._open_input()
                self._open_outputs()
            if self._closed:
                raise _deleted()
        except BaseException:
            self.close()
            self._let_go()  # once more: what another's ``close`` could not know
            raise
        finally:
            self._leave()

    def begin(self, agent: Agent, container_id: str, exec_id: str) -> None:
        """Start copying, one thread a stream."""
        target = (container_id, exec_id)
        for stream in ("Stdout",) if self.terminal else ("Stdout", "Stderr"):
            self._start(self._pump_output, agent, target, stream, self._outputs.get(stream, -1))
        if self._stdin >= 0:
            self._start(self._pump_input, agent, target, self._stdin, daemon_only=True)
        elif not self.terminal:
            agent.close_stdin(*target)  # the agent gives every process an input

    def close_stdin(self) -> None:
        """Let go of our own writing end: the input ends when its last writer leaves."""
        with self._lock:
            self._input_ended = True
            if self._keeper >= 0:
                os.close(self._keeper)
                self._keeper = -1

    def drain(self) -> None:
        """Return when all output has been passed on, or its reader has stopped taking it."""
        self._progress = time.monotonic()
        for pump in self._pumps:
            while pump.is_alive() and not self._is_stalled():
                pump.join(timeout=0.1)

    def end(self, status: int) -> None:
        """Tell a process that stands for this one how it ended."""
        if self._stand_in is not None:
            self._stand_in.end(status)

    def close(self) -> None:
        """Stop copying and close everything.  May be called twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            os.write(self._wake_write, b"x")
        self.close_stdin()
        if self._stand_in is not None:
            self._stand_in.close()
        for pump in self._pumps:
            pump.join(timeout=1.0)
        self._let_go()
        self._leave()

    def _is_stalled(self) -> bool:
        limit_s = _STALL_S if self._blocked else _GUEST_S
        return time.monotonic() - self._progress > limit_s

    def _start(self, pump: Callable[..., None], *args: object, daemon_only: bool = False) -> None:
        def run() -> None:
            try:
                pump(*args)
            finally:
                self._leave()

        thread = threading.Thread(target=run, name="stdio", daemon=True)
        with self._lock:
            if self._closed:
                return
            self._users += 1
            if not daemon_only:
                self._pumps.append(thread)
            thread.start()

    def _let_go(self) -> None:
        """Have the other ends of the streams see an end, and the logger end.

        A pump that hangs in the guest goes on with their numbers later, which therefore stand for
        /dev/null from now on, until nobody knows them.
        """
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        with self._lock:
            streams = {self._stdin, *self._outputs.values()} - {-1}
            self._stdin, self._outputs = -1, {}
            self._spent |= streams
            for fd in streams:
                os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)
        if self._stand_in is not None:
            self._stand_in.close()
        if self._plugin is not None:
            self._plugin.close()

    def _leave(self) -> None:
        """The last to leave closes it: ``close`` itself, or a pump that hangs in the guest."""
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for fd in (self._wake_read, self._wake_write, *self._spent):
                    os.close(fd)

    def _open_input(self) -> None:
        if not self.spec.stdin:
            return
        path = urlsplit(self.spec.stdin).path
        self._stdin = _open_path(path, os.O_RDONLY | os.O_NONBLOCK)
        keeper = _open_path(path, os.O_WRONLY | os.O_NONBLOCK)
        with self._lock:
            if self._input_ended:
                os.close(keeper)
            else:
                self._keeper = keeper

    def _open_stand_in(self) -> None:
        self._stand_in = StandIn(urlsplit(self.spec.stdout).path, self._log)
        self._stdin, stdout, stderr = self._stand_in.streams
        self._outputs = {"Stdout": reopen_output(stdout)}
        if self.terminal:
            os.close(stderr)
        else:
            self._outputs["Stderr"] = reopen_output(stderr)
        self._stand_in.follow(self._controls)

    def _open_outputs(self) -> None:
        if urlsplit(self.spec.stdout).scheme == "binary":
            uri = urlsplit(self.spec.stdout)
            arguments = [part for pair in parse_qsl(uri.query, True) for part in pair if part]
            self._plugin = LoggerPlugin([uri.path, *arguments], self._owner, self._spawner)
            self._outputs = {"Stdout": self._plugin.stdout, "Stderr": self._plugin.stderr}
            return
        for stream, uri_text in (("Stdout", self.spec.stdout), ("Stderr", self.spec.stderr)):
            if uri_text and not (self.terminal and stream == "Stderr"):
                self._outputs[stream] = _open_output(uri_text)

    def _pump_output(self, agent: Agent, target: tuple[str, str], stream: str, fd: int) -> None:
        try:
            reading = agent.begin_read(stream, *target, _OUTPUT_BYTES)
            while data := reading.finish():
                # The guest gets the next piece ready while this one is passed on.
                reading = agent.begin_read(stream, *target, _OUTPUT_BYTES)
                if fd in self._spent or (fd >= 0 and not self._write(fd, data)):
                    return
        except KataError as error:
            self._log.debug("output ended", stream=stream, error=describe_error(error))
        with self._lock:
            # The reader sees the end only when nobody has the writing end open any more.
            if fd >= 0 and list(self._outputs.values()).count(fd) == 1 and not self._closed:
                self._outputs.pop(stream)
                os.close(fd)

    def _write(self, fd: int, data: bytes) -> bool:
        view = memoryview(data)
        poller = select.poll()
        poller.register(fd, select.POLLOUT)
        poller.register(self._wake_read, select.POLLIN)
        while view:
            try:
                view = view[os.write(fd, view) :]
                self._progress = time.monotonic()
                self._blocked.discard(fd)
            except BlockingIOError:
                self._blocked.add(fd)
                if any(ready == self._wake_read for ready, _ in poller.poll()):
                    return False
            except OSError as error:
                self._log.warning("output lost", error=str(error))
                return False
        return True

    def _pump_input(self, agent: Agent, target: tuple[str, str], stdin: int) -> None:
        poller = select.poll()
        poller.register(stdin, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        try:
            while not any(ready == self._wake_read for ready, _ in poller.poll()):
                data = os.read(stdin, _INPUT_BYTES)
                if not data:
                    agent.close_stdin(*target)
                    return
                agent.write_stdin(*target, data)
        except (KataError, OSError) as error:
            self._log.debug("input ended", error=describe_error(error))


def _deleted() -> KataError:
    return KataError("open streams: their process was deleted", Code.FAILED_PRECONDITION)


def _open_output(uri_text: str) -> int:
    uri = urlsplit(uri_text)
    if uri.scheme == "file":
        os.makedirs(os.path.dirname(uri.path) or "/", exist_ok=True)
        return _open_path(uri.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if uri.scheme in ("", "fifo"):
        # Reading end included: the engine may be restarted without the container losing its output.
        return _open_path(uri.path, os.O_RDWR | os.O_NONBLOCK)
    raise KataError(f"open output {uri_text}: unknown scheme", Code.INVALID_ARGUMENT)


def _open_path(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise KataError(
            f"open stream {path}: {error.strerror}", Code.FAILED_PRECONDITION
        ) from error
