"""A fork of the factory that starts a machine, waits, and becomes the shim of a sandbox.

It ends by itself when the factory does, or when its machine dies.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from kata.base import fdpass, syscalls, title
from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.config.load import load_config
from kata.host.factory.fork import Request, enter
from kata.host.sandbox.spare import Spare
from kata.host.shim import address
from kata.host.shim.arguments import Arguments, parse_arguments
from kata.host.shim.daemon import isolate_mounts
from kata.host.shim.start import become_shim, render_answer
from kata.host.template.address import DONE

READY = b"ready"
# Exit statuses: a template may come, or trying again soon is useless.
NO_TEMPLATE = 2
FAILED = 1
_NO_TEMPLATE_CODES = (Code.NOT_FOUND, Code.DATA_LOSS)
_LOWEST = 19


class Launcher:
    """The launcher of a shim as the shim sees it (see handover.Starter).  Owns its socket."""

    def __init__(self, sock: socket.socket, arguments: Arguments) -> None:
        self._sock = sock
        self._arguments = arguments

    def tell_ready(self) -> None:
        """See Starter."""
        wanted = self._arguments
        path = address.socket_path(wanted.address, wanted.namespace, wanted.id)
        self._tell(0, render_answer(path), "")

    def tell_failure(self, reason: str) -> None:
        """See Starter."""
        self._tell(1, "", f"containerd-shim-kata-v2: {reason}\n")

    def wait_known(self) -> bool:
        """See Starter."""
        try:
            return fdpass.receive(self._sock)[0] == [DONE]
        except (OSError, ValueError):
            return False
        finally:
            self._sock.close()

    def _tell(self, status: int, output: str, errors: str) -> None:
        try:
            fdpass.send(self._sock, [DONE, str(status).encode(), output.encode(), errors.encode()])
        except OSError:
            pass  # it was killed, which is seen later


def run_spare(kind: Mapping[str, Any], control: socket.socket, log: Logger) -> int:
    """Be a spare, and then perhaps a shim; returns the exit status.

    Says READY on ``control``; a request that comes there makes it a shim, a hang-up ends it.
    """
    title.set_title([sys.executable, "-IS", sys.argv[0], "spare"])
    os.setsid()
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    os.nice(_LOWEST)
    isolate_mounts()
    try:
        spare = Spare(kind, load_config(str(kind["config"]), {}), log, Spawner())
    except (KataError, OSError, KeyError, TypeError) as error:
        log.warning("no warm machine", reason=describe_error(error))
        missing = isinstance(error, KataError) and error.code in _NO_TEMPLATE_CODES
        return NO_TEMPLATE if missing else FAILED
    _set_priority([os.getpid(), *spare.processes()], usual, log)
    request = _wait(control, spare)
    if request is None:
        spare.close()
    else:
        _become(*request, spare)
    return 0


def _wait(control: socket.socket, spare: Spare) -> tuple[Request, socket.socket] | None:
    """Return a request with the launcher's socket; None when none will come."""

    def give_up() -> None:
        with contextlib.suppress(OSError):  # a shim's machine is the shim's business
            control.shutdown(socket.SHUT_RDWR)

    spare.call_when_lost(give_up)
    try:
        fdpass.send(control, [READY])
        parts, fds = fdpass.receive(control)
    except (OSError, ValueError):
        return None
    if not parts:
        return None
    control.close()
    return Request(parts, fds[:-1]), socket.socket(fileno=fds[-1])


def _become(request: Request, answer: socket.socket, spare: Spare) -> None:
    spare.detach()
    # This thread and those that it starts go where the launcher is; the machine's own stay.
    syscalls.unshare(syscalls.CLONE_FS)
    try:
        enter(request)
    except (KataError, OSError):
        spare.close()
        return  # without an answer the launcher does it itself
    request.close()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    arguments = parse_arguments(request.argv[1:])
    become_shim(arguments, Launcher(answer, arguments), spare)


def _set_priority(pids: list[int], priority: int, log: Logger) -> None:
    for pid in pids:
        try:
            for thread in os.listdir(f"/proc/{pid}/task"):
                os.setpriority(os.PRIO_PROCESS, int(thread), priority)
        except OSError as error:
            log.warning("priority not restored", pid=pid, reason=describe_error(error))
