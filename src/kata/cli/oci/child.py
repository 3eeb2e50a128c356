"""A process that is forked to do one thing which would change this program, in namespaces say."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket

from kata.base.errors import Code, KataError, describe_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Tell = Callable[[object], None]

_MESSAGE_BYTES = 1 << 16
_ERROR_CHARS = 1000
# Of a few mounts; a volume whose server does not answer holds the guest's start up as well.
_TIMEOUT_S = 30.0


class Child:
    """The process.  It ends with this program, and is reaped by ``close``."""

    def __init__(self, what: str, function: Callable[[Tell], None]) -> None:
        """Fork it: it calls ``function``, which tells what ``receive`` returns, and ends."""
        self._what = what
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(_TIMEOUT_S)
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _run(theirs, function)
        theirs.close()

    def receive(self) -> Any:
        """Return the next thing that it tells.  Raises KataError if it has failed instead."""
        try:
            said = self._control.recv(_MESSAGE_BYTES)
        except OSError as error:
            raise KataError(f"{self._what}: {error}", Code.INTERNAL) from error
        answer = json.loads(said) if said else {"error": "its process has ended"}
        if "error" in answer:
            raise KataError(f"{self._what}: {answer['error']}", Code.FAILED_PRECONDITION)
        return answer["told"]

    def close(self) -> None:
        """End it, whatever it does.  May be called twice."""
        self._control.close()
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _run(control: socket.socket, function: Callable[[Tell], None]) -> NoReturn:
    from kata.base import syscalls

    def send(key: str, value: object) -> None:
        control.send(json.dumps({key: value}).encode())

    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        function(lambda value: send("told", value))
    except Exception as error:  # noqa: BLE001  # the process ends here, and says why
        with contextlib.suppress(OSError):
            send("error", describe_error(error)[:_ERROR_CHARS])
    finally:
        os._exit(0)
