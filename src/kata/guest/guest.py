"""The machine that the agent runs on: a guest of its own, or a host that it only visits."""

from __future__ import annotations

import threading

from kata.guest.modules import Modules

# The set-up takes some tens of milliseconds under emulation.
READY_TIMEOUT_S = 30.0


class Guest:
    """What differs between PID 1 in a virtual machine and a plain process."""

    def __init__(self, *, is_ours: bool) -> None:
        """``is_ours``: the machine belongs to the sandbox, so its name and clock may be set."""
        self.is_ours = is_ours
        self.modules = Modules()
        self._ready = threading.Event()

    def set_ready(self) -> None:
        """Say that the set-up behind the first answer is over."""
        self._ready.set()

    def wait_ready(self) -> None:
        """Wait for that, before the first request of the AgentService is worked on."""
        self._ready.wait(READY_TIMEOUT_S)
