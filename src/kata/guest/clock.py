"""The guest's wall clock, and the Clock service, by which the host keeps it with its own."""

from __future__ import annotations

import time

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.rpc.pb import clock_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.guest.guest import Guest
    from kata.rpc.server import Method


def set_time(seconds: int, microseconds: int, guest: Guest) -> None:
    """Set the clock.  Raises FAILED_PRECONDITION where it is a host's clock, not ours."""
    _require_own(guest)
    if seconds < 0 or not 0 <= microseconds < 1_000_000:
        raise KataError(
            f"set time: {seconds} s and {microseconds} us are no time", Code.INVALID_ARGUMENT
        )
    time.clock_settime_ns(time.CLOCK_REALTIME, seconds * 1_000_000_000 + microseconds * 1000)


def methods(guest: Guest) -> dict[str, Method]:
    """Return the service's table."""

    def shift(request: pb.ShiftRequest) -> Message:
        if request.offset_ns:
            _require_own(guest)
            if request.slew:
                syscalls.slew_clock(request.offset_ns)
            else:
                syscalls.step_clock(request.offset_ns)
        return pb.ShiftResponse(time_ns=time.time_ns())

    return {"Shift": (pb.ShiftRequest, shift)}


def _require_own(guest: Guest) -> None:
    if not guest.is_ours:
        raise KataError("set time: this machine is not the agent's", Code.FAILED_PRECONDITION)
