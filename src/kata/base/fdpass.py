"""Messages of several parts, with descriptors, over a Unix socket that keeps messages apart.

Needs nothing but built-in modules: the programs that use it start in milliseconds.
"""

from __future__ import annotations

import _socket
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# An engine's environment and a machine's description are far below; so is the kernel's limit.
MAX_BYTES = 128 << 10
_MAX_FDS = 16
_INT_BYTES = 4
_LENGTH_BYTES = 4


def connect(path: str) -> _socket.socket:
    """Return a connection to a listener.  Raises OSError."""
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def pack(parts: Sequence[bytes]) -> bytes:
    """Return a message as it travels."""
    return b"".join(len(part).to_bytes(_LENGTH_BYTES, "little") + part for part in parts)


def send(sock: _socket.socket, parts: Sequence[bytes], fds: Sequence[int] = ()) -> None:
    """Send a message; descriptors are borrowed.  Raises OSError."""
    data = pack(parts)
    rights = b"".join(fd.to_bytes(_INT_BYTES, "little") for fd in fds)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if fds else []
    sock.sendmsg([data], ancillary)


def receive(sock: _socket.socket) -> tuple[list[bytes], list[int]]:
    """Return the next message, no parts when the peer has hung up; the caller owns the descriptors.

    Raises OSError, or ValueError for a message of another form.
    """
    data, fds, flags = receive_bytes(sock, MAX_BYTES)
    try:
        if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC):
            raise ValueError("the message is too long")
        return _split(data), fds
    except ValueError:
        for fd in fds:
            os.close(fd)
        raise


def receive_bytes(sock: _socket.socket, size: int) -> tuple[bytes, list[int], int]:
    """Return up to ``size`` bytes as they came, their descriptors, and recvmsg(2)'s flags.

    The descriptors are the caller's, and no program's that is executed.  Raises OSError.
    """
    space = _socket.CMSG_SPACE(_MAX_FDS * _INT_BYTES)
    data, ancillary, flags, _ = sock.recvmsg(size, space, _socket.MSG_CMSG_CLOEXEC)
    fds = [
        int.from_bytes(rights[at : at + _INT_BYTES], "little")
        for level, kind, rights in ancillary
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS)
        for at in range(0, len(rights), _INT_BYTES)
    ]
    return data, fds, flags


def _split(data: bytes) -> list[bytes]:
    parts = []
    while data:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
        if len(data) < end:
            raise ValueError("the message is cut short")
        parts.append(data[_LENGTH_BYTES:end])
        data = data[end:]
    return parts
