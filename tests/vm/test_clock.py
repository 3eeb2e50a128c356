"""The clock of a guest that runs follows the host's."""

from __future__ import annotations

import time

import pytest

from kata.base.log import Logger
from kata.host.sandbox import clock
from kata.host.sandbox.sandbox import Sandbox
from tests.support.runtime import wait_until

pytestmark = pytest.mark.e2e

HOUR_NS = 3_600_000_000_000
MS = 1_000_000
# What is promised.
LIMIT_NS = 50 * MS


def offset_ns(sandbox: Sandbox, ahead_ns: int = 0) -> int:
    """Return how far the guest is ahead of a time that is ahead of the host's, within 3 ms."""
    deadline = time.monotonic() + 60
    while True:
        found = clock.measure(sandbox.agent, lambda: time.time_ns() + ahead_ns)
        if found.error_ns < 3 * MS:
            return found.offset_ns
        assert time.monotonic() < deadline, found


def correct(sandbox: Sandbox) -> None:
    """Correct the clock, also on a busy host."""
    wait_until(lambda: clock.correct(sandbox.agent).is_known)


def test_a_sandbox_begins_with_the_hosts_time(sandbox: Sandbox) -> None:
    assert abs(offset_ns(sandbox)) < LIMIT_NS


@pytest.mark.parametrize("step_ns", [HOUR_NS, -HOUR_NS])
def test_a_step_of_the_hosts_clock_is_followed(sandbox: Sandbox, step_ns: int) -> None:
    """In a time that the keeper is told: the machine's own is others' as well."""
    lines: list[bytes] = []
    keeper = clock.ClockKeeper(
        sandbox.agent, Logger(lines.append), lambda: time.time_ns() + step_ns
    )
    try:
        keeper.wake()
        wait_until(lambda: abs(offset_ns(sandbox, step_ns)) < LIMIT_NS)
    finally:
        keeper.close()
    assert any(b"guest's clock was stepped" in line for line in lines)
    correct(sandbox)
    assert abs(offset_ns(sandbox)) < LIMIT_NS


def test_a_small_difference_goes_without_a_jump(sandbox: Sandbox) -> None:
    sandbox.agent.shift_clock(-40 * MS, slew=False)
    before = offset_ns(sandbox)
    correct(sandbox)
    after = offset_ns(sandbox)
    assert before - 6 * MS < after < before + 15 * MS  # it begins where it was
    # By 0.5 ms a second.
    wait_until(lambda: after + 8 * MS < offset_ns(sandbox) < 6 * MS, timeout_s=60)
    clock.correct(sandbox.agent, slew=False)


def test_a_machine_that_was_paused_catches_up(sandbox: Sandbox) -> None:
    sandbox.hypervisor.pause()
    time.sleep(2)
    sandbox.hypervisor.resume()
    correct(sandbox)
    assert abs(offset_ns(sandbox)) < LIMIT_NS
