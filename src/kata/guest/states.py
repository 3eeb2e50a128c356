"""The states of a container, and which may follow which."""

from __future__ import annotations

import threading

from kata.base.errors import Code, KataError

CREATING = "creating"
CREATED = "created"
RUNNING = "running"
PAUSED = "paused"
STOPPED = "stopped"

TRANSITIONS = {
    CREATING: frozenset({CREATED, STOPPED}),
    CREATED: frozenset({RUNNING, STOPPED}),
    RUNNING: frozenset({PAUSED, STOPPED}),
    PAUSED: frozenset({RUNNING, STOPPED}),
    STOPPED: frozenset[str](),
}


class StateMachine:
    """The current state of one container.  Any thread may ask and move it."""

    def __init__(self, container_id: str) -> None:
        self._container_id = container_id
        self._lock = threading.Lock()
        self.state = CREATING

    def move(self, verb: str, new: str) -> None:
        """Go to ``new``.  Raises FAILED_PRECONDITION: cannot pause container c in state created."""
        with self._lock:
            if new not in TRANSITIONS[self.state]:
                raise self._refusal(verb)
            self.state = new

    def require(self, verb: str, *allowed: str) -> None:
        """Raise FAILED_PRECONDITION unless the state is one of ``allowed``."""
        if self.state not in allowed:
            raise self._refusal(verb)

    def advance(self, new: str) -> None:
        """Go to ``new`` if that may follow; else stay (an end that came meanwhile wins)."""
        with self._lock:
            if new in TRANSITIONS[self.state]:
                self.state = new

    def _refusal(self, verb: str) -> KataError:
        return KataError(
            f"cannot {verb} container {self._container_id} in state {self.state}",
            Code.FAILED_PRECONDITION,
        )
