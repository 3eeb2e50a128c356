"""The host's mounts as the engine sees them, from a shim that has a mount namespace of its own.

What is mounted on the host later reaches the shim by itself only where ``/`` is shared, as systemd
makes it.  So sources of volumes are looked up in the engine's namespace, and cloned from there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from kata.base import syscalls

Result = TypeVar("Result")


class HostView:
    """Runs functions where the engine's mounts are.  Owns the descriptor of that namespace."""

    def __init__(self) -> None:
        """Remember the namespace that the caller is in now."""
        self._fd = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def run(self, function: Callable[[], Result]) -> Result:
        """Return what ``function`` returns there.

        setns(2) moves one thread only, so it runs in one that ends with it.
        """
        results: list[Result] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                syscalls.unshare(syscalls.CLONE_FS)
                syscalls.setns(self._fd, syscalls.CLONE_NEWNS)
                results.append(function())
            except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
                failures.append(error)

        thread = threading.Thread(target=run, name="mounts")
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    def clone(self, path: str, *, recursive: bool, follows: bool) -> int:
        """Return a detached copy of what is mounted at ``path``, which the caller owns.

        If it ``follows``, mounts that are made there later on the host arrive in it; none ever
        travels back.
        """
        propagation = syscalls.MS_SLAVE if follows else syscalls.MS_PRIVATE
        return self.run(lambda: syscalls.clone_mount(path, propagation, recursive=recursive))
