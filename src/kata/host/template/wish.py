"""Ask the node's factory for a template; start the factory if there is none.

Asking never fails a sandbox: without a factory it goes on as before, only slower.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from kata.base import fdpass
from kata.base.errors import Code, KataError
from kata.host.template.address import SOCKET, WANT_TEMPLATE

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

PROGRAM = "kata-factory"


def wish_template(config_path: str, machine: Mapping[str, object]) -> None:
    """Ask for a template of a machine (the fields of a VmSpec).

    To be called where the engine's mounts are.  Raises KataError when nobody takes the wish.
    """
    text = json.dumps({"config": config_path, "machine": dict(machine)})
    try:
        sock = _connect()
        try:
            fdpass.send(sock, [WANT_TEMPLATE, text.encode()])
        finally:
            sock.close()
    except OSError as error:
        raise KataError(f"ask {PROGRAM} for a template: {error}", Code.UNAVAILABLE) from error


def ensure_factory() -> None:
    """Start the factory if it does not run, for the next sandbox.  Raises KataError."""
    try:
        _connect().close()
    except OSError as error:
        raise KataError(f"start {PROGRAM}: {error}", Code.UNAVAILABLE) from error


def _connect() -> _socket.socket:
    try:
        return fdpass.connect(SOCKET)
    except OSError:
        _start_factory()
        return fdpass.connect(SOCKET)


def _start_factory() -> None:
    """Start the factory beside the program that runs; it listens when this returns."""
    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), PROGRAM)
    if not os.access(program, os.X_OK):
        raise KataError(f"start {PROGRAM}: {program} is no program", Code.NOT_FOUND)
    pid = os.posix_spawn(
        program,
        [program, "--detach"],
        dict(os.environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)
        ],
        setsigmask=(),
    )
    os.waitpid(pid, 0)
