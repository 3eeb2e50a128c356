"""The guest's wall clock."""

from __future__ import annotations

import time

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.guest import Guest


def set_time(seconds: int, microseconds: int, guest: Guest) -> None:
    """Set the clock.  Raises FAILED_PRECONDITION where it is a host's clock, not ours."""
    if not guest.is_ours:
        raise KataError("set time: this machine is not the agent's", Code.FAILED_PRECONDITION)
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise KataError(
            f"set time: {seconds} s and {microseconds} us are no time", Code.INVALID_ARGUMENT
        )
    time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + microseconds * 1000)
