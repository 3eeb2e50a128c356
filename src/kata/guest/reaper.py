"""The one owner of waitpid: collects every child, and tells those who wait for one.

As PID 1 (or as a subreaper on the host) the agent gets the exits of processes that it did not
spawn: a container's first process is an orphan that ``crun create`` left behind.  Such an exit may
arrive before anybody knows the pid, so while a birth is under way the exits of unknown pids are
kept; without one they are nobody's and are dropped, so a pid that is used again is never mistaken.

SIGCHLD has to be blocked in every thread (``block_signals`` before the first thread starts).
"""

from __future__ import annotations

import os
import threading

from kata.guest import signals
from kata.guest.exits import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from kata.base.log import Logger

# What the main thread and the reaper wait for, and what must not end the agent.
_BLOCKED = (signals.SIGCHLD, signals.SIGTERM, signals.SIGINT, signals.SIGHUP, signals.SIGPWR)


def block_signals() -> None:
    """Block the signals that are waited for; call it before any thread is started."""
    signals.block(_BLOCKED)


class Reaper:
    """Collect exits on a thread of its own."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._watched: dict[int, Exit] = {}
        self._unclaimed: dict[int, int] = {}
        self._births = 0

    def start(self) -> None:
        """Start collecting.  The thread lives as long as the agent."""
        threading.Thread(target=self._run, name="reaper", daemon=True).start()

    def birth(self) -> Birth:
        """Return a context in which the exits of pids not yet known are kept."""
        return Birth(self)

    def claim(self, pid: int, exit_: Exit) -> None:
        """Tell ``exit_`` when ``pid`` ends, or at once if it has; only inside a birth."""
        with self._lock:
            status = self._unclaimed.pop(pid, None)
            if status is None:
                self._watched[pid] = exit_
                return
        exit_.settle(status)

    def _enter(self) -> None:
        with self._lock:
            self._births += 1

    def _leave(self) -> None:
        with self._lock:
            self._births -= 1
            if not self._births:
                self._unclaimed.clear()

    def _run(self) -> None:
        while True:
            self._collect()
            signals.wait((signals.SIGCHLD,))

    def _collect(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            try:
                self._tell(pid, exit_status(status))
            except Exception as error:  # noqa: BLE001  # without this thread nobody ends
                self._log.error("exit not told", exc=error, pid=pid)

    def _tell(self, pid: int, status: int) -> None:
        with self._lock:
            exit_ = self._watched.pop(pid, None)
            if exit_ is None:
                if self._births:
                    self._unclaimed[pid] = status
                return
        exit_.settle(status)


class Birth:
    """The time between the start of a process and the claim of its pid."""

    __slots__ = ("_reaper",)

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def __enter__(self) -> None:
        self._reaper._enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._reaper._leave()


def exit_status(status: int) -> int:
    """Turn what waitpid answers into an exit status as shells show it: 128 + the signal."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)
