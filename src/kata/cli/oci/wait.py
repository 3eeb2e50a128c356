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


def wait_for(stand_in: Leash, console: Console | None) -> int:
    """Return its exit status; signals that come meanwhile go to it."""

    def pass_on(signum: int, _: object) -> None:
        try:
            os.kill(stand_in.pid, signum)
        except ProcessLookupError:
            pass  # it has ended, which is seen next

    for signum in _PASSED:
        signal.signal(signum, pass_on)
    if console is not None:
        from kata.cli.oci.proxy import pass_terminal

        pass_terminal(console)
        console.close()
    return stand_in.wait()
