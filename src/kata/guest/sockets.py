"""Sockets, without the standard library's module, which costs a booting guest 80 ms at import."""

from __future__ import annotations

import _socket

BACKLOG = 16


def listen_vsock(port: int) -> _socket.socket:
    """Listen on AF_VSOCK, on any context id."""
    listener = _socket.socket(_socket.AF_VSOCK, _socket.SOCK_STREAM)
    listener.bind((_socket.VMADDR_CID_ANY, port))
    listener.listen(BACKLOG)
    return listener


def listen_unix(name: str) -> _socket.socket:
    """Listen on a Unix socket: a path, or ``@name`` for an abstract one."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listener.bind("\0" + name[1:] if name.startswith("@") else name)
    listener.listen(BACKLOG)
    return listener


def accept(listener: _socket.socket) -> _socket.socket:
    """Return the next connection, which the caller owns."""
    fd, _ = listener._accept()  # type: ignore[attr-defined]  # what socket.accept() is made of
    return _socket.socket(fileno=fd)
