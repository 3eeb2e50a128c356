"""The machine that the agent runs on: a guest of its own, or a host that it only visits."""

from __future__ import annotations

import threading

from kata.guest.modules import Modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The set-up takes some tens of milliseconds under emulation.
READY_TIMEOUT_S = 30.0


class Guest:
    """What differs between PID 1 in a virtual machine and a plain process."""

    def __init__(self, *, is_ours: bool) -> None:
        """``is_ours``: the machine belongs to the sandbox, so its name and clock may be set."""
        self.is_ours = is_ours
        self.modules = Modules()
        self._ready = threading.Event()
        self._last_call: tuple[int, Callable[[], None]] | None = None

    def set_ready(self) -> None:
        """Say that the set-up behind the first answer is over."""
        self._ready.set()

    def wait_ready(self) -> None:
        """Wait for that, before the first request of the AgentService is worked on."""
        self._ready.wait(READY_TIMEOUT_S)

    def after_answer(self, action: Callable[[], None]) -> None:
        """Run ``action`` once the request that this thread works on has been answered."""
        self._last_call = (threading.get_ident(), action)

    def answered(self) -> None:
        """Run the action left by this thread's request; for the connection."""
        if self._last_call is not None and self._last_call[0] == threading.get_ident():
            _, action = self._last_call
            self._last_call = None
            action()
