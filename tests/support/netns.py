"""Network namespaces of a test's own, and commands in them.

They have no name and no process: a descriptor holds each.  ``ip netns`` would mount /run/netns
anew, over the namespaces of pods that run meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kata.base import syscalls
from kata.host.network import namespace

Result = TypeVar("Result")


class Netns:
    """A network namespace with its loopback up."""

    def __init__(self) -> None:
        self._fd = _make()
        self.path = f"/proc/{os.getpid()}/fd/{self._fd}"
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Run commands of ip(8) in it."""
        for command in commands:
            self._run("ip", *command.split())

    def ask(self, program: str, command: str) -> list[dict[str, Any]]:
        """Return what ip(8) or tc(8) prints as JSON."""
        printed = self._run(program, "-j", *command.split())
        found: list[dict[str, Any]] = json.loads(printed or "[]")
        return found

    def link(self, name: str) -> dict[str, Any] | None:
        """Return a link by its name."""
        found = [item for item in self.ask("ip", "-d link") if item["ifname"] == name]
        return found[0] if found else None

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in a thread that is in it."""
        return namespace.run_inside(self._fd, function)

    def delete(self) -> None:
        """Remove it; it goes when nobody else holds it.  May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _run(self, *command: str) -> str:
        words = ["nsenter", f"--net={self.path}", *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def making_namespaces() -> Iterator[Callable[[], Netns]]:
    """Give a maker of namespaces that are removed in the end."""
    made: list[Netns] = []

    def make() -> Netns:
        made.append(Netns())
        return made[-1]

    try:
        yield make
    finally:
        for item in made:
            item.delete()


def _make() -> int:
    found: list[int] = []

    # unshare(2) moves the calling thread only.
    def make() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    return found[0]
