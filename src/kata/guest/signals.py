"""Signals, without the standard library's module.

It makes enums of its constants at import, which costs a booting guest 60 ms.  Its C core has the
functions; the numbers are the kernel's, the same on x86 and arm.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.guest.handle import Handle

SIGHUP = 1
SIGINT = 2
SIGQUIT = 3
SIGKILL = 9
SIGPIPE = 13
SIGTERM = 15
SIGCHLD = 17
SIGTSTP = 20
SIGTTIN = 21
SIGTTOU = 22
SIGXFSZ = 25
SIGPWR = 30
# The last real-time signal.
MAX_SIGNAL = 64


def check(receiver: str, number: int) -> None:
    """Raise INVALID_ARGUMENT for the number of no signal."""
    if not 0 <= number <= MAX_SIGNAL:
        raise KataError(f"signal {receiver}: no signal {number}", Code.INVALID_ARGUMENT)


def block(signals: Iterable[int]) -> None:
    """Block signals in the calling thread and in those it will start."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, signals)


def wait(signals: Iterable[int]) -> None:
    """Wait until one of the signals, which have to be blocked, arrives."""
    _signal.sigwait(signals)


def ignore(number: int) -> None:
    """Ignore a signal in the whole process; ignoring SIGCHLD, no child is to be waited for."""
    _signal.signal(number, _signal.SIG_IGN)


def reset() -> None:
    """Give the caller, which is about to execute a program, the signals as the kernel has them."""
    for number in range(1, MAX_SIGNAL + 1):
        try:
            if _signal.getsignal(number) == _signal.SIG_IGN:
                _signal.signal(number, _signal.SIG_DFL)
        except (ValueError, OSError):
            pass  # libc keeps some for itself
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def send(pidfd: Handle, number: int) -> None:
    """Send a signal to the process of a pidfd; one that has ended, or is let go, is no error."""
    if not pidfd.enter():
        return
    try:
        _signal.pidfd_send_signal(pidfd.fd, number)
    except ProcessLookupError:
        pass
    finally:
        pidfd.leave()
