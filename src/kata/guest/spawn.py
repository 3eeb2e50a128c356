"""Start programs with a clean signal mask, and wait for them through the reaper."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.guest import signals
from kata.guest.exits import Exit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import TypeAlias

    from kata.guest.reaper import Reaper

    Action: TypeAlias = tuple[int, int, int] | tuple[int, int, str, int, int]

ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
# Python ignores these two; a program expects the kernel's defaults.
_DEFAULTED = (signals.SIGPIPE, signals.SIGXFSZ)
# What who runs the agent may ignore; a shell could not have its programs heed it again (signal(7)).
_TERMINALS = (
    signals.SIGHUP,
    signals.SIGINT,
    signals.SIGQUIT,
    signals.SIGTERM,
    signals.SIGTSTP,
    signals.SIGTTIN,
    signals.SIGTTOU,
)


def run(
    reaper: Reaper,
    argv: list[str],
    stdio: Sequence[int | None],
    timeout_s: float,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> int:
    """Run a program to its end and return its exit status (128 + signal).

    ``stdio`` are borrowed descriptors above 2 for standard input, output and error; None is
    /dev/null.  Raises DEADLINE_EXCEEDED after ``timeout_s``, when the program has been killed, and
    OSError when it cannot be started.
    """
    exit_ = Exit()
    try:
        with reaper.birth():
            pid = os.posix_spawnp(
                argv[0],
                argv,
                environment,
                file_actions=stdio_actions(stdio),
                setsigmask=(),
                setsigdef=_DEFAULTED,
            )
            reaper.claim(pid, exit_)
        status = exit_.wait(timeout_s)
        if status is None:
            os.kill(pid, signals.SIGKILL)
            exit_.wait()
            raise KataError(f"run {argv[0]}: no end after {timeout_s:g} s", Code.DEADLINE_EXCEEDED)
        return status
    finally:
        exit_.close()


def spawn_leader(
    program: str, argv: list[str], environment: Mapping[str, str], actions: Sequence[Action]
) -> int:
    """Start a program that leads a session of its own; return its pid.  Raises OSError."""
    return os.posix_spawn(
        program,
        argv,
        environment,
        file_actions=actions,
        setsid=True,
        setsigmask=(),
        setsigdef=(*_DEFAULTED, *_TERMINALS),
    )


def stdio_actions(stdio: Sequence[int | None]) -> list[Action]:
    """Return what gives a program these streams; they are above 2, None is /dev/null."""
    return [_action(number, fd) for number, fd in enumerate(stdio)]


def _action(number: int, fd: int | None) -> Action:
    if fd is None:
        return (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0)
    return (os.POSIX_SPAWN_DUP2, fd, number)
