"""Tasks that are being created: each by one call, which another call may want given up."""

from __future__ import annotations

import threading

from kata.base.errors import Code, KataError
from kata.host.sandbox.sandbox import Sandbox

# A machine that was killed while it started is given back within this time.
_ABORT_S = 5.0


class Creations:
    """What is under way.  Its lock is the tasks' own, which are registered under it."""

    def __init__(self, lock: threading.Condition) -> None:
        self._lock = lock
        self._sandboxes: dict[str, Sandbox | None] = {}
        self._unwanted: set[str] = set()

    def __len__(self) -> int:
        with self._lock:
            return len(self._sandboxes)

    def begin(self, container_id: str) -> None:
        """Take an id.  Raises ALREADY_EXISTS while it is taken."""
        with self._lock:
            if container_id in self._sandboxes:
                raise KataError(f"create {container_id}: it exists already", Code.ALREADY_EXISTS)
            self._sandboxes[container_id] = None

    def note_sandbox(self, container_id: str, sandbox: Sandbox) -> None:
        """Note which machine is started for a task."""
        with self._lock:
            self._sandboxes[container_id] = sandbox
            if container_id in self._unwanted:
                sandbox.abort()

    def require_wanted(self, container_id: str) -> None:
        """Raise CANCELLED for a task that was given up."""
        with self._lock:
            if container_id in self._unwanted:
                raise KataError(f"create {container_id}: it was given up", Code.CANCELLED)

    def end(self, container_id: str) -> None:
        """Let go of an id, whether the task was created or not."""
        with self._lock:
            self._sandboxes.pop(container_id, None)
            self._unwanted.discard(container_id)
            self._lock.notify_all()

    def give_up(self, container_id: str) -> None:
        """Have a task that is being created taken back, as engines want when their client has gone.

        Returns when that is done, or will be.
        """
        with self._lock:
            if container_id not in self._sandboxes:
                return
            self._unwanted.add(container_id)
            sandbox = self._sandboxes[container_id]
            if sandbox is not None:
                sandbox.abort()
            self._lock.wait_for(lambda: container_id not in self._sandboxes, _ABORT_S)

    def give_up_all(self) -> None:
        """Have nothing created any more."""
        with self._lock:
            known = list(self._sandboxes)
        for container_id in known:
            self.give_up(container_id)
