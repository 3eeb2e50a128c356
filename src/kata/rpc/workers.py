"""Threads for requests: started on demand, used again, ended when idle.

Requests may wait for long (the end of a process, its next output), so their number is not limited
by a pool's size; an idle thread leaves after a while, so a quiet shim has few.
"""

from __future__ import annotations

import queue
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Long enough to serve a burst of requests with the same threads, short enough to be gone soon.
IDLE_S = 5.0


class Workers:
    """Run callables on threads of their own; the callables handle their own errors."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle = 0
        self._jobs: queue.Queue[Callable[[], None]] = queue.Queue()

    def submit(self, job: Callable[[], None]) -> None:
        """Run ``job`` on an idle thread, or on a new one."""
        with self._lock:
            start = self._idle == 0
            if not start:
                self._idle -= 1
        if start:
            threading.Thread(target=self._work, args=(job,), name=self._name, daemon=True).start()
        else:
            self._jobs.put(job)

    def _work(self, job: Callable[[], None]) -> None:
        while True:
            job()
            with self._lock:
                self._idle += 1
            try:
                job = self._jobs.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if self._idle > 0:
                        self._idle -= 1
                        return
                job = self._jobs.get()  # a submitter counted on this thread a moment ago
