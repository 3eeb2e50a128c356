"""What a running sandbox's shim answers to programs: HTTP at its socket (kata.host.shim)."""

from __future__ import annotations

import socket

from kata.base.errors import Code, KataError
from kata.base.statefolder import ROOT, SOCKET, find_sandbox_folder

# A guest that is slow answers within this time, or does not.
_TIMEOUT_S = 90.0
_CODES = {
    400: Code.INVALID_ARGUMENT,
    404: Code.NOT_FOUND,
    409: Code.FAILED_PRECONDITION,
    501: Code.UNIMPLEMENTED,
    503: Code.UNAVAILABLE,
    504: Code.DEADLINE_EXCEEDED,
}


def ask(
    sandbox_id: str,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    root: str = ROOT,
    timeout_s: float = _TIMEOUT_S,
) -> bytes:
    """Return the answer's body; the start of an id will do.

    Raises NOT_FOUND without such a sandbox, UNAVAILABLE when its shim does not answer, or what the
    shim says.
    """
    import http.client

    folder = find_sandbox_folder(sandbox_id, root)
    connection = http.client.HTTPConnection("shim")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(timeout_s)
    try:
        connection.sock.connect(f"{folder}/{SOCKET}")
        connection.request(method, path, body)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise KataError(
            f"ask the shim of {sandbox_id}: {error or type(error).__name__}", Code.UNAVAILABLE
        ) from error
    finally:
        connection.close()
    if answer.status != 200:
        said = make_printable(content.decode("utf-8", "replace").strip())  # partly the guest's
        raise KataError(
            said or f"ask the shim of {sandbox_id}: status {answer.status}",
            _CODES.get(answer.status, Code.INTERNAL),
        )
    return content


def show(data: bytes) -> None:
    """Write what a guest says to standard output; to a terminal, only what it can show."""
    import sys

    if sys.stdout.isatty():
        text = data.decode("utf-8", "replace")
        sys.stdout.write("".join(f"{make_printable(line)}\n" for line in text.splitlines()))
    else:
        sys.stdout.buffer.write(data)


def make_printable(text: str) -> str:
    """Return a line without what would command a terminal."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter == "\t" else f"\\x{ord(letter):02x}"
        for letter in text
    )


def read_input(path: str) -> bytes:
    """Return a file's content; ``-`` is standard input."""
    import sys

    try:
        if path == "-":
            return sys.stdin.buffer.read()
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise KataError(f"read {path}: {error.strerror}", Code.NOT_FOUND) from error
