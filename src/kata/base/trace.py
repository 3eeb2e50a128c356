"""The steps of a sandbox's start and of its containers', with their times, for people to look at.

One JSON object a line in the sandbox's state folder: ``step``, and ``began`` and ``ended`` in
seconds of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from kata.base.statefolder import find_sandbox_folder, missing_sandbox

NAME = "trace"
# Of an id, so many letters are shown, as engines do.
SHOWN = 12
# A pod whose containers start again and again must not fill the memory that /run is.
_MAX_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was done."""

    step: str
    began: float
    ended: float


class Trace:
    """Notes steps.  Those before ``keep_in`` wait for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._path = ""
        self._waiting: list[Step] = []

    def keep_in(self, folder: str) -> None:
        """Write to a file in a folder from now on."""
        with self._lock:
            self._path = f"{folder}/{NAME}"
            waiting, self._waiting = self._waiting, []
            for step in waiting:
                self._write(step)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Note a step, also one that fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            step = Step(name, began, time.monotonic())
            with self._lock:
                if self._path:
                    self._write(step)
                else:
                    self._waiting.append(step)

    def _write(self, step: Step) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            fd = os.open(self._path, flags, 0o600)
        except OSError:
            return  # the sandbox is being removed; nothing depends on a trace
        try:
            if os.fstat(fd).st_size < _MAX_BYTES:
                os.write(fd, f"{json.dumps(asdict(step))}\n".encode())
        finally:
            os.close(fd)


def read_trace(sandbox_id: str, root: str) -> list[Step]:
    """Return a running sandbox's steps in the order of their beginning.

    See ``find_sandbox_folder`` for what is taken and raised.
    """
    folder = find_sandbox_folder(sandbox_id, root)
    try:
        with open(f"{folder}/{NAME}") as file:
            steps = [Step(**json.loads(line)) for line in file]
    except FileNotFoundError:
        raise missing_sandbox(sandbox_id) from None
    return sorted(steps, key=lambda step: (step.began, -step.ended))
