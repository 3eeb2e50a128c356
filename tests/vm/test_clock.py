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
    """Return how far the guest is ahead of a time that is ahead of the host's."""
    found = clock.measure(sandbox.agent, lambda: time.time_ns() + ahead_ns)
    assert found.error_ns < LIMIT_NS / 2
    return found.offset_ns


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
    clock.correct(sandbox.agent)
    assert abs(offset_ns(sandbox)) < LIMIT_NS


def test_a_small_difference_goes_without_a_jump(sandbox: Sandbox) -> None:
    sandbox.agent.shift_clock(-40 * MS, slew=False)
    before = offset_ns(sandbox)
    clock.correct(sandbox.agent)
    after = offset_ns(sandbox)
    assert abs(after - before) < 10 * MS  # it begins where it was
    time.sleep(5)  # 0.5 ms a second
    assert after + MS < offset_ns(sandbox) < 0
    sandbox.agent.shift_clock(0, slew=True)
    clock.correct(sandbox.agent, slew=False)


def test_a_machine_that_was_paused_catches_up(sandbox: Sandbox) -> None:
    sandbox.hypervisor.pause()
    time.sleep(2)
    sandbox.hypervisor.resume()
    clock.correct(sandbox.agent)
    assert abs(offset_ns(sandbox)) < LIMIT_NS
