"""Everything a sandbox acquired, to be given back in reverse order."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kata.base.errors import describe_error


class UndoStack:
    """A list of named steps; each runs at most once, all of them run even when some fail."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: list[tuple[str, Callable[[], None]]] = []

    def push(self, name: str, step: Callable[[], None]) -> None:
        """Remember how to give something back."""
        with self._lock:
            self._steps.append((name, step))

    def run(self) -> list[str]:
        """Run what is there, the last first; returns the failures as ``name: reason``."""
        failures: list[str] = []
        while True:
            with self._lock:
                if not self._steps:
                    return failures
                name, step = self._steps.pop()
            try:
                step()
            except Exception as error:  # noqa: BLE001  # clean-up goes on and tells all
                failures.append(f"{name}: {describe_error(error)}")
