"""The guest's clock is corrected by what is known of the way to it, not by what is not."""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass, field

import pytest

from kata.base import syscalls
from kata.host.sandbox import clock

MS = 1_000_000


@dataclass
class Guest:
    """A guest whose clock is ahead, and whose requests take some time there and back."""

    ahead_ns: int
    ways: list[tuple[int, int]]
    now_ns: int = 10**18
    slewed: list[int] = field(default_factory=list)

    def shift_clock(self, offset_ns: int, *, slew: bool) -> int:
        there, back = self.ways.pop(0) if len(self.ways) > 1 else self.ways[0]
        self.now_ns += there
        if slew:
            self.slewed.append(offset_ns)
        else:
            self.ahead_ns += offset_ns
        told = self.now_ns + self.ahead_ns
        self.now_ns += back
        return told

    def set_time(self, time_ns: int) -> None:
        self.now_ns += self.ways[0][0]
        self.ahead_ns = time_ns - self.now_ns
        self.now_ns += self.ways.pop(0)[1]


@pytest.fixture(autouse=True)
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[Guest]:
    """Time passes by what the guest's requests take."""
    guests: list[Guest] = []
    monkeypatch.setattr(time, "monotonic_ns", lambda: guests[0].now_ns)
    return guests


def make(guests: list[Guest], ahead_ns: int, *ways: tuple[int, int]) -> Guest:
    guest = Guest(ahead_ns, list(ways))
    guests.append(guest)
    return guest


def correct(guest: Guest, **more: bool) -> clock.Measure:
    return clock.correct(guest, lambda: guest.now_ns, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("ahead_ns", [-14_600 * MS, -60 * MS, 55 * MS, 3600 * 1000 * MS])
def test_a_large_difference_is_stepped(monotonic: list[Guest], ahead_ns: int) -> None:
    guest = make(monotonic, ahead_ns, (2 * MS, 2 * MS))
    assert correct(guest).offset_ns == ahead_ns
    assert (guest.ahead_ns, guest.slewed) == (0, [])


def test_a_small_difference_is_slewed(monotonic: list[Guest]) -> None:
    guest = make(monotonic, -20 * MS, (MS, MS))
    correct(guest)
    assert (guest.ahead_ns, guest.slewed) == (-20 * MS, [20 * MS])


def test_what_is_as_good_as_right_is_left(monotonic: list[Guest]) -> None:
    guest = make(monotonic, MS // 2, (MS, MS))
    correct(guest)
    assert (guest.ahead_ns, guest.slewed) == (MS // 2, [])


def test_the_shortest_way_counts(monotonic: list[Guest]) -> None:
    busy = (800 * MS, 10 * MS)
    guest = make(monotonic, -100 * MS, busy, busy, (4 * MS, 6 * MS), busy)
    found = correct(guest)
    assert found.error_ns == 5 * MS
    assert abs(guest.ahead_ns) <= found.error_ns


def test_what_a_long_way_hides_is_not_guessed(monotonic: list[Guest]) -> None:
    guest = make(monotonic, 0, (900 * MS, 0))
    found = correct(guest)
    assert not found.is_known
    assert guest.ahead_ns == 0


def test_what_is_larger_than_a_long_way_is_corrected(monotonic: list[Guest]) -> None:
    guest = make(monotonic, -14_600 * MS, (900 * MS, 100 * MS))
    correct(guest)
    assert abs(guest.ahead_ns) <= 500 * MS


def test_a_clock_that_was_set_slowly_is_right(monotonic: list[Guest]) -> None:
    guest = make(monotonic, -3600 * 1000 * MS, (2000 * MS, 10 * MS), (3 * MS, 3 * MS))
    clock.set_first(guest, guest.set_time, lambda: guest.now_ns)  # type: ignore[arg-type]
    assert abs(guest.ahead_ns) <= 3 * MS
    assert guest.slewed == []


def test_pauses_become_longer_while_nothing_is_to_be_done() -> None:
    pause_s, pauses = 2.0, []
    for _ in range(6):
        pause_s = clock._plan_pause(clock.Measure(MS, MS), pause_s)
        pauses.append(pause_s)
    assert pauses == [60.0, 120.0, 240.0, 480.0, 600.0, 600.0]
    assert clock._plan_pause(clock.Measure(30 * MS, MS), 600.0) == 30.0
    assert clock._plan_pause(clock.Measure(0, 900 * MS), 600.0) == 2.0


def test_a_timer_waits_for_a_step_of_the_clock() -> None:
    timer = syscalls.make_step_timer()
    try:
        syscalls.wait_step(timer)
        assert select.select([timer], [], [], 0)[0] == []
    finally:
        os.close(timer)
