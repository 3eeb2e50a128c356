"""Network namespaces of a test's own, and commands in them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from kata.host.network import namespace

Result = TypeVar("Result")
_numbers = itertools.count()


class Netns:
    """A network namespace with its loopback up."""

    def __init__(self) -> None:
        self.name = f"katanet-{os.getpid()}-{next(_numbers)}"
        self.path = f"/run/netns/{self.name}"
        _run("ip", "netns", "add", self.name)
        self.ip("link set lo up")

    def ip(self, *commands: str) -> None:
        """Run commands of ip(8) in it."""
        for command in commands:
            _run("ip", "-n", self.name, *command.split())

    def ask(self, program: str, command: str) -> list[dict[str, Any]]:
        """Return what ip(8) or tc(8) prints as JSON."""
        printed = _run(program, "-n", self.name, "-j", *command.split())
        found: list[dict[str, Any]] = json.loads(printed or "[]")
        return found

    def link(self, name: str) -> dict[str, Any] | None:
        """Return a link by its name."""
        found = [item for item in self.ask("ip", "-d link") if item["ifname"] == name]
        return found[0] if found else None

    def run(self, function: Callable[[], Result]) -> Result:
        """Run a function in a thread that is in it."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return namespace.run_inside(fd, function)
        finally:
            os.close(fd)

    def delete(self) -> None:
        """Remove it.  May be called twice."""
        if Path(self.path).exists():
            _run("ip", "netns", "delete", self.name)


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


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
