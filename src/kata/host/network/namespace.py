"""Network namespaces of the host: told apart, and entered for a moment."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

from kata.base import syscalls
from kata.base.errors import Code, KataError

Result = TypeVar("Result")


def open_namespace(path: str) -> int:
    """Return a descriptor of a network namespace, which the caller owns.

    Raises NOT_FOUND when there is nothing at ``path``, INVALID_ARGUMENT when it is something else.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KataError(
            f"open network namespace {path}: {error.strerror}", Code.NOT_FOUND
        ) from error
    try:
        run_inside(fd, lambda: None)
    except OSError as error:
        os.close(fd)
        raise KataError(
            f"open network namespace {path}: it is none ({error.strerror})", Code.INVALID_ARGUMENT
        ) from error
    return fd


def run_inside(netns_fd: int, function: Callable[[], Result]) -> Result:
    """Return what ``function`` returns in a namespace; borrows the descriptor.

    setns(2) moves one thread only, so it runs in one that ends with it.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.setns(netns_fd, syscalls.CLONE_NEWNET)
            results.append(function())
        except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


def is_host_namespace(path: str) -> bool:
    """Return whether a path is the network namespace of the host, or of this process."""
    identity = _identify(path)
    return identity is not None and identity in map(
        _identify, ("/proc/1/ns/net", "/proc/self/ns/net")
    )


def _identify(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except OSError:  # in a container of its own the engine may not look at the host's first process
        return None
    return facts.st_dev, facts.st_ino
