"""The states of a container's process and the ways between them."""

from __future__ import annotations

import enum

from kata.base.errors import Code, KataError


class State(enum.Enum):
    """As containerd names them."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.CREATED: frozenset({State.RUNNING, State.STOPPED}),
    State.RUNNING: frozenset({State.PAUSED, State.STOPPED}),
    State.PAUSED: frozenset({State.RUNNING, State.STOPPED}),
    State.STOPPED: frozenset(),
}


def check_transition(verb: str, name: str, current: State, wanted: State) -> None:
    """Raise FAILED_PRECONDITION when ``verb`` cannot be done in the current state."""
    if wanted not in TRANSITIONS[current]:
        raise KataError(f"{verb} {name}: it is {current.value}", Code.FAILED_PRECONDITION)
