"""The guest itself, as something to run programs in: the debug console.

To the shim it is a container without an id that runs as long as the machine.
"""

from __future__ import annotations

from typing import Any, NoReturn

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.container import Container, ContainerRequest
from kata.host.sandbox.states import State
from kata.rpc.pb import agent_pb2


class Console(Container):
    """Only execs make sense in it."""

    def __init__(self, log: Logger) -> None:
        super().__init__(ContainerRequest("", "", {}, ()), _NoIo(), log)
        self.process.set_state("start", State.RUNNING)

    def start(self, agent: Agent) -> NoReturn:
        """Refuse, as the others."""
        raise _refuse("start")

    def signal(self, agent: Agent, exec_id: str, signum: int) -> None:
        """Send a signal to one of its programs."""
        if not exec_id:
            raise _refuse("kill")
        super().signal(agent, exec_id, signum)

    def stats(self, agent: Agent) -> agent_pb2.StatsContainerResponse:
        """Refuse: what there is to know, metrics tell."""
        raise _refuse("stats of")

    def pause(self, agent: Agent) -> NoReturn:
        """Refuse."""
        raise _refuse("pause")

    def resume(self, agent: Agent) -> NoReturn:
        """Refuse."""
        raise _refuse("resume")

    def update(self, agent: Agent, resources: dict[str, Any]) -> NoReturn:
        """Refuse."""
        raise _refuse("update")


class _NoIo:
    """The streams of what has none."""

    terminal = False
    has_stand_in = False

    def open(self) -> None:
        """Nothing to open."""

    def begin(self, agent: Agent, container_id: str, exec_id: str) -> None:
        """Nothing to copy."""

    def close_stdin(self) -> None:
        """Nothing to end."""

    def drain(self) -> None:
        """Nothing to wait for."""

    def end(self, status: int) -> None:
        """Nobody to tell."""

    def close(self) -> None:
        """Nothing to let go of."""


def _refuse(verb: str) -> KataError:
    return KataError(f"{verb} the guest itself: name a container", Code.INVALID_ARGUMENT)
