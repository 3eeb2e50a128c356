"""A process of a container, seen from the host: its state, its end, its streams."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.states import State, check_transition

# What is reported when the machine ended before the process could tell.
EXIT_LOST = 255
# The agent answers a start within this time, or the machine is lost.
_BEGIN_S = 60.0
_SIGKILL_EXIT = 137


class ProcessIo(Protocol):
    """The host's ends of a process's streams."""

    terminal: bool
    # Whether a process of the host stands for this one.  Then nobody deletes it, if it is an exec.
    has_stand_in: bool

    def open(self) -> None:
        """Open the streams; on failure nothing stays open."""

    def begin(self, agent: Agent, container_id: str, exec_id: str) -> None:
        """Start copying."""

    def close_stdin(self) -> None:
        """Pass the end of input on, after what was written before."""

    def drain(self) -> None:
        """Return when all output has been passed on, or its reader does not take it."""

    def end(self, status: int) -> None:
        """Tell the other side of the streams, if there is one to tell, how the process ended."""

    def close(self) -> None:
        """Let go of everything.  May be called twice."""


class Process:
    """One process.  ``exec_id`` is empty for the container's own."""

    def __init__(self, container_id: str, exec_id: str, io: ProcessIo, log: Logger) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.io = io
        self.exit_status = 0
        self.exited_at_ns = 0
        # Whether the end is only known from the end of the agent's connection, and what it is then.
        self.lost = False
        self.lost_status = EXIT_LOST
        # Whether the engine has been told of the start (set until a start begins) and of the end.
        self.start_told = threading.Event()
        self.start_told.set()
        self.exit_told = threading.Event()
        # Terminal size that was asked for before the process was started.
        self.initial_size: tuple[int, int] | None = None
        self._log = log
        # Whether no start is under way, whose streams are still to be begun.
        self._begun = threading.Event()
        self._begun.set()
        self._state = State.CREATED
        self._lock = threading.Lock()
        self._exited = threading.Event()

    @property
    def name(self) -> str:
        """Return how errors call this process."""
        return f"exec {self.exec_id}" if self.exec_id else f"container {self.container_id}"

    @property
    def state(self) -> State:
        """Return the current state."""
        return self._state

    def start(self, agent: Agent, run: Callable[[], None]) -> None:
        """Start the process by calling ``run``; on failure it is stopped for good."""
        with self._lock:
            check_transition("start", self.name, self._state, State.RUNNING)
            self._state = State.RUNNING
            self.start_told.clear()
            self._begun.clear()
        try:
            run()
            self.io.begin(agent, self.container_id, self.exec_id)
        except BaseException:
            self.start_told.set()
            self.exit_told.set()  # which the failure says
            self.finish(_SIGKILL_EXIT)
            self.io.close()  # the engine waits for the end of streams nobody will write to
            raise
        finally:
            self._begun.set()

    def wait_begun(self) -> None:
        """Return when no start is under way: until then the guest does not know the process."""
        self._begun.wait(_BEGIN_S)

    def drain(self) -> None:
        """Return when the output of a process that has ended has been passed on.

        Its end may be known before the answer to its start.
        """
        self.wait_begun()
        self.io.drain()

    def follow(self, agent: Agent, on_exit: Callable[[Process], None]) -> None:
        """Wait for the end on a thread of its own, then call ``on_exit`` there."""
        threading.Thread(
            target=self._follow, args=(agent, on_exit), name="wait", daemon=True
        ).start()

    def set_state(self, verb: str, wanted: State) -> None:
        """Change the state, if it can be."""
        with self._lock:
            check_transition(verb, self.name, self._state, wanted)
            self._state = wanted

    def require(self, verb: str, *states: State) -> None:
        """Raise when the process is in none of ``states``; NOT_FOUND when it has ended."""
        if self._state not in states:
            code = Code.NOT_FOUND if self._state is State.STOPPED else Code.FAILED_PRECONDITION
            reason = "process already finished" if code == Code.NOT_FOUND else self._state.value
            raise KataError(f"{verb} {self.name}: {reason}", code)

    def require_deletable(self) -> None:
        """Raise when the process still runs."""
        if self._state in (State.RUNNING, State.PAUSED):
            raise KataError(
                f"delete {self.name}: it is {self._state.value}", Code.FAILED_PRECONDITION
            )

    def wait(self) -> None:
        """Return when the process has ended and its status is known."""
        self._exited.wait()

    def finish(self, status: int, exited_at_ns: int = 0) -> bool:
        """Note the end, now or at ``exited_at_ns``; returns False when it was known already."""
        with self._lock:
            if self._state is State.STOPPED:
                return False
            self.exit_status = status
            self.exited_at_ns = exited_at_ns or time.time_ns()
            self._state = State.STOPPED  # the last: whoever sees it reads the others
        self._exited.set()
        self.io.end(status)
        return True

    def _follow(self, agent: Agent, on_exit: Callable[[Process], None]) -> None:
        try:
            status = agent.wait_process(self.container_id, self.exec_id)
        except KataError as error:
            self._log.info("process lost", container=self.container_id, error=str(error))
            status = self.lost_status
            self.lost = True
        ended_at_ns = time.time_ns()
        # Clients take the end for the end of the output as well: ctr closes its ends of the FIFOs.
        self.drain()
        if self.finish(status, ended_at_ns):
            on_exit(self)
