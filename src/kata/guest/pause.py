"""The pid namespace that a pod's containers share, and the process that holds it.

A pid namespace lives as long as its first process, which also collects the orphans in it; Debian's
catatonit does that and nothing else.
"""

from __future__ import annotations

import os
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.guest import signals

PROGRAM = "/usr/bin/catatonit"


class SharedPids:
    """Made when the first container asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0

    def path(self) -> str:
        """Return the namespace's path under /proc.  Raises UNIMPLEMENTED without the program."""
        with self._lock:
            if not self._pid:
                self._pid = _start()
            return f"/proc/{self._pid}/ns/pid"

    def close(self) -> None:
        """End the first process, and with it every other.  May be called twice."""
        with self._lock:
            if self._pid:
                try:
                    os.kill(self._pid, signals.SIGKILL)
                except ProcessLookupError:
                    pass  # something in the pod had it killed
            self._pid = 0


def _start() -> int:
    if not os.path.exists(PROGRAM):
        raise KataError(f"share pid namespace: there is no {PROGRAM}", Code.UNIMPLEMENTED)
    results: list[int | OSError] = []

    # unshare(2) of pids changes where the calling thread's next child goes, for good.
    def start() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWPID)
            results.append(os.posix_spawn(PROGRAM, [PROGRAM, "-P"], {}, setsigmask=()))
        except OSError as error:
            results.append(error)

    thread = threading.Thread(target=start, name="pause")
    thread.start()
    thread.join()
    if isinstance(results[0], OSError):
        raise results[0]
    return results[0]
