"""Become, in a fork of the factory, the process that a launcher would have been."""

from __future__ import annotations

import io
import os
import signal
import sys

from kata.base import fdpass, syscalls, title
from kata.base.errors import Code, KataError, describe_error
from kata.host.factory.launcher import NAMESPACES
from kata.host.template.address import DONE, RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Sequence

    from kata.host.shim.handover import Daemon

_ENTERED = {"mnt": syscalls.CLONE_NEWNS, "net": syscalls.CLONE_NEWNET}


class Request:
    """A command to run.  Borrows the descriptors that came with it."""

    def __init__(self, parts: Sequence[bytes], fds: Sequence[int]) -> None:
        """Raises ValueError for what is no such request."""
        if len(parts) != 4 or parts[0] != RUN or len(fds) != 3 + len(NAMESPACES):
            raise ValueError("a request of another form")
        self.code = os.fsdecode(parts[1])
        self.argv = _unpack(parts[2])
        self.environ = dict(word.split("=", 1) for word in _unpack(parts[3]))
        self.stdin, self.folder, self.root = fds[:3]
        self.namespaces = dict(zip(NAMESPACES, fds[3:], strict=True))

    def close(self) -> None:
        """Close the descriptors, for who owns them."""
        for fd in (self.stdin, self.folder, self.root, *self.namespaces.values()):
            os.close(fd)


def run_request(
    request: Request, answer: _socket.socket, run: Callable[[], tuple[int, Daemon | None]]
) -> None:
    """Do in this process, a fresh fork, what the launcher asks for, and tell it the outcome.

    Returns in every process that ``run`` leaves behind; the caller ends it.
    """
    output, errors = io.TextIOWrapper(io.BytesIO()), io.TextIOWrapper(io.BytesIO())
    status, daemon = 1, None
    try:
        enter(request)
    except (KataError, OSError):
        return  # without an answer the launcher does it itself
    sys.stdout, sys.stderr = output, errors
    try:
        status, daemon = run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except Exception as error:  # noqa: BLE001  # whatever it is, the engine is told
        print(f"containerd-shim-kata-v2: {describe_error(error)}", file=errors)
    parts = [DONE, str(status).encode()]
    for stream in (output, errors):
        stream.flush()
        parts.append(stream.buffer.getvalue())
    try:
        fdpass.send(answer, parts)
        told = fdpass.receive(answer)[0] == [DONE]
    except (OSError, ValueError):
        told = False
    if daemon and told:
        daemon.tell_known()


def enter(request: Request) -> None:
    """Take over folder, environment, name and namespaces of the launcher."""
    for name, fd in request.namespaces.items():
        if os.fstat(fd).st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:
            continue
        if name not in _ENTERED:
            raise KataError(f"run here: another {name} namespace", Code.FAILED_PRECONDITION)
        syscalls.setns(fd, _ENTERED[name])
    if not os.path.samestat(os.fstat(request.root), os.stat("/")):
        raise KataError("run here: another root", Code.FAILED_PRECONDITION)
    os.fchdir(request.folder)
    os.dup2(request.stdin, 0)
    os.environ.clear()
    os.environ.update(request.environ)
    sys.argv[:] = request.argv
    title.set_title([sys.executable, "-IS", *request.argv])
    for signum in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_DFL)


def _unpack(data: bytes) -> list[str]:
    return [os.fsdecode(word) for word in data.split(b"\0")] if data else []
