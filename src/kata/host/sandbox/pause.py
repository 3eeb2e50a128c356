"""The sandbox container of a pod: to the engine a container, in truth the virtual machine itself.

Engines run a process that does nothing ("pause") to hold a pod's namespaces.  Here the machine
holds them, so the container costs no process; it answers as the engine expects of one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.container import Container, ContainerRequest
from kata.host.sandbox.process import Process, ProcessIo
from kata.host.sandbox.states import State
from kata.rpc.pb import agent_pb2

# pause ends with success on these two, as every image of it does.
_POLITE = {signal.SIGTERM: 0, signal.SIGINT: 0}
_KILLED = 128 + signal.SIGKILL


class PauseContainer(Container):
    """A container without a process.  ``on_exit`` is called once, in a thread of its own."""

    def __init__(
        self,
        request: ContainerRequest,
        io: ProcessIo,
        log: Logger,
        on_exit: Callable[[Process], None],
    ) -> None:
        super().__init__(request, io, log)
        self._on_exit = on_exit

    def start(self, agent: Agent) -> None:
        """Count as running from now on."""
        self.process.start_told.clear()
        try:
            self.process.set_state("start", State.RUNNING)
        except KataError:
            self.process.start_told.set()
            raise

    def signal(self, agent: Agent, exec_id: str, signum: int) -> None:
        """End on the signals that end pause; no other has an effect."""
        process = self.get_process(exec_id)
        process.require("kill", State.CREATED, State.RUNNING, State.PAUSED)
        if signum == signal.SIGKILL or signum in _POLITE:
            self.end(_POLITE.get(signal.Signals(signum), _KILLED))

    def signal_all(self, agent: Agent, signum: int) -> None:
        """Do as ``signal``: pause is all that there is."""
        self.signal(agent, "", signum)

    def end(self, status: int) -> None:
        """Count as ended with ``status``."""
        if self.process.finish(status):
            threading.Thread(
                target=self._on_exit, args=(self.process,), name="exit", daemon=True
            ).start()

    def stats(self, agent: Agent) -> agent_pb2.StatsContainerResponse:
        """Return what pause uses: nothing."""
        self.process.require("stats of", State.CREATED, State.RUNNING, State.PAUSED)
        return agent_pb2.StatsContainerResponse()

    def remove(self, agent: Agent) -> None:
        """Do nothing: the guest knows no such container."""

    def pause(self, agent: Agent) -> None:
        """Count as paused."""
        self.process.require("pause", State.RUNNING)
        self.process.set_state("pause", State.PAUSED)

    def resume(self, agent: Agent) -> None:
        """Count as running again."""
        self.process.require("resume", State.PAUSED)
        self.process.set_state("resume", State.RUNNING)

    def update(self, agent: Agent, resources: dict[str, Any]) -> None:
        """Do nothing: pause has no limits worth setting."""
        self.process.require("update", State.CREATED, State.RUNNING, State.PAUSED)

    def add_exec(self, exec_id: str, spec: dict[str, Any], io: ProcessIo) -> NoReturn:
        """Refuse: there is no root file system to run anything in."""
        raise KataError(
            f"exec in {self.id}: it is the pod's sandbox, which has no files and no processes",
            Code.FAILED_PRECONDITION,
            "run it in one of the pod's containers",
        )
