"""Terminals: the master side comes from the runtime over a socket, as the OCI runtimes do it."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct

from kata.base import fdpass
from kata.base.errors import KataError
from kata.guest.sockets import accept

TIOCSWINSZ = 0x5414
MSG_CMSG_CLOEXEC = 0x40000000


class ConsoleSocket:
    """Listen for the one terminal that a runtime sends.  ``close()`` removes the socket."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._socket = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen(1)
        self._socket.setblocking(False)

    def receive(self) -> int:
        """Return the master's descriptor, which the caller owns; the runtime has sent it before.

        Raises KataError when nothing has come.
        """
        try:
            peer = accept(self._socket)
            try:
                _, control, _, _ = peer.recvmsg(4096, _socket.CMSG_SPACE(4), MSG_CMSG_CLOEXEC)
            finally:
                peer.close()
        except BlockingIOError as error:
            raise KataError("receive terminal: the runtime sent none") from error
        for level, kind, data in control:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                received: int = struct.unpack("i", data[:4])[0]
                return received
        raise KataError("receive terminal: the runtime's message carried no descriptor")

    def close(self) -> None:
        """Stop listening.  May be called twice."""
        self._socket.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass


def resize(master: int, rows: int, columns: int) -> None:
    """Set a terminal's size; the kernel tells its foreground processes.  Borrows ``master``."""
    fcntl.ioctl(master, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def hand_on(fds: list[int], console_path: str) -> None:
    """Send a terminal's master to a console socket, as runtimes do; takes the descriptors."""
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.connect(console_path)
            fdpass.send(sock, [b"terminal"], fds)
        finally:
            sock.close()
    finally:
        for fd in fds:
            os.close(fd)
