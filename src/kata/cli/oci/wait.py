"""Wait for a process in the foreground, as if it were this program."""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.oci.streams import Console, Leash

_PASSED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGCONT,
)

_held: list[int] = []


def hold_signals() -> None:
    """Keep what comes from now on for a process that is about to start, until ``wait_for``."""
    for signum in _PASSED:
        signal.signal(signum, lambda number, _: _held.append(number))


def wait_for(stand_in: Leash, console: Console | None) -> int:
    """Return its exit status; signals that were held or come meanwhile go to it."""

    def pass_on(signum: int, _: object) -> None:
        try:
            os.kill(stand_in.pid, signum)
        except ProcessLookupError:
            pass  # it has ended, which is seen next

    for signum in _PASSED:
        signal.signal(signum, pass_on)
    while _held:
        pass_on(_held.pop(0), None)
    if console is not None:
        from kata.cli.oci.proxy import pass_terminal

        pass_terminal(console)
        console.close()
    return stand_in.wait()
