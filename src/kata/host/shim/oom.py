"""Containers that had no memory left: told to containerd by an event, to CRI-O by a file."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.container import Container
from kata.host.shim.events import Publisher
from kata.rpc.pb import events_pb2


def follow_oom(
    agent: Agent, find: Callable[[str], Container | None], publisher: Publisher, log: Logger
) -> None:
    """Tell what the guest says, on a thread of its own, until the machine ends."""

    def run() -> None:
        while True:
            try:
                container_id = agent.wait_oom()
            except KataError as error:
                log.debug("no more memory events", error=describe_error(error))
                return
            log.info("out of memory", container=container_id)
            container = find(container_id)
            if container is not None:
                container.note_oom()
            publisher.publish(events_pb2.TaskOOM(container_id=container_id))

    threading.Thread(target=run, name="oom", daemon=True).start()
