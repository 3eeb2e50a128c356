"""Keeps the guest's clock with the host's: set at the start, followed from then on.

A request takes its time to get there, on a busy host seconds.  So the guest is asked for its time
and the way there and back is measured; what the answer says is right but for half of that.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from kata.base import syscalls
from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent

Now = Callable[[], int]

# A way there and back that tells the guest's time well enough.
_CLOSE_NS = 20_000_000
_TRIES = 5
# What programs do not notice is left; what they would as a jump is gained or lost little by little,
# as long as that takes two minutes at most.
_LEFT_NS = 1_000_000
_STEP_NS = 50_000_000
# Between two looks; the longer, the less there was to correct.
_SOON_S, _FIRST_S, _LAST_S = 2.0, 30.0, 600.0


@dataclass(frozen=True, slots=True)
class Measure:
    """How far the guest's clock is ahead of the host's, and by how much that may be wrong."""

    offset_ns: int
    error_ns: int

    @property
    def is_known(self) -> bool:
        """Return whether it says anything: whether to correct, and in which direction."""
        return self.error_ns * 2 <= _CLOSE_NS or abs(self.offset_ns) > self.error_ns


def set_first(agent: Agent, set_time: Callable[[int], None], now: Now = time.time_ns) -> None:
    """Set the clock by a request that takes the time, exactly also when it was slow."""
    began = time.monotonic_ns()
    set_time(now())
    if time.monotonic_ns() - began > _CLOSE_NS:
        correct(agent, now, slew=False)


def measure(agent: Agent, now: Now = time.time_ns) -> Measure:
    """Compare the clocks; asks again while the way is long, and takes the shortest."""
    found: list[Measure] = []
    for _ in range(_TRIES):
        began = time.monotonic_ns()
        guest = agent.shift_clock(0, slew=False)
        host, took = now(), time.monotonic_ns() - began
        found.append(Measure(guest - (host - took // 2), took // 2))
        if took <= _CLOSE_NS:
            break
    return min(found, key=lambda one: one.error_ns)


def correct(agent: Agent, now: Now = time.time_ns, *, slew: bool = True) -> Measure:
    """Correct the guest's clock; returns what was found.  Without ``slew`` always at once."""
    found = measure(agent, now)
    if found.is_known and abs(found.offset_ns) > _LEFT_NS:
        agent.shift_clock(-found.offset_ns, slew=slew and abs(found.offset_ns) < _STEP_NS)
    return found


class ClockKeeper:
    """Corrects the guest's clock when the host's is stepped, and rarely else."""

    def __init__(self, agent: Agent, log: Logger, now: Now = time.time_ns) -> None:
        self._agent = agent
        self._log = log
        self._now = now
        self._lock = threading.Lock()
        # Closed to stop: who waits for an answer of the guest then stops after it.
        reading, self._wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        timer = syscalls.make_step_timer()
        threading.Thread(target=self._run, args=(timer, reading), name="clock", daemon=True).start()

    def wake(self) -> None:
        """Look now, unless it is closed."""
        with self._lock:
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b".")

    def close(self) -> None:
        """Stop soon.  May be called twice."""
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _run(self, timer: int, wake: int) -> None:
        try:
            self._follow(timer, wake)
        finally:
            os.close(timer)
            os.close(wake)

    def _follow(self, timer: int, wake: int) -> None:
        poll = select.poll()
        poll.register(timer, select.POLLIN)
        poll.register(wake, select.POLLIN)
        pause_s = _SOON_S  # the start may have been in a hurry
        while True:
            for fd, _ in poll.poll(pause_s * 1000):
                if fd == timer:
                    syscalls.wait_step(timer)
                elif not os.read(wake, 1 << 10):
                    return
            try:
                found = correct(self._agent, self._now)
            except KataError as error:
                if error.code == Code.UNAVAILABLE:  # the machine is gone
                    return
                self._log.warning("guest's clock not corrected", error=describe_error(error))
                continue
            pause_s = _plan_pause(found, pause_s)
            if found.is_known and abs(found.offset_ns) >= _STEP_NS:
                self._log.info("guest's clock was stepped", ms=-found.offset_ns // 1_000_000)


def _plan_pause(found: Measure, before_s: float) -> float:
    if not found.is_known:
        return _SOON_S
    if abs(found.offset_ns) > _CLOSE_NS:
        return _FIRST_S
    return min(max(before_s, _FIRST_S) * 2, _LAST_S)
