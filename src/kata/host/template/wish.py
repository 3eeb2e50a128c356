"""Tell the node's factory what sandboxes want; start the factory if there is none.

Telling never fails a sandbox: without a factory it goes on as before, only slower.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from kata.base import fdpass
from kata.base.errors import Code, KataError
from kata.host.template.address import SOCKET, WANT

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

PROGRAM = "kata-factory"


def tell_kind(kind: Mapping[str, object], hint: str, spares: int, *, wants_template: bool) -> None:
    """Say what machine a sandbox has got, for those that will come with the same ``hint``.

    The factory keeps so many ``spares``, of this kind and others that are asked for.
    To be called where the engine's mounts are.  Raises KataError when nobody listens.
    """
    wish = {"kind": dict(kind), "hint": hint, "spares": spares, "template": wants_template}
    text = json.dumps(wish)
    try:
        sock = _connect()
        try:
            fdpass.send(sock, [WANT, text.encode()])
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
