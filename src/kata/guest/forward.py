"""Connections that the host asks for, to ports in the guest: the Forward service."""

from __future__ import annotations

import _socket
import threading

from kata.base.errors import Code, KataError
from kata.rpc.pb import forward_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.rpc.server import Method

# Tried in this order, as "localhost" is.
_LOOPBACKS = ((_socket.AF_INET, "127.0.0.1"), (_socket.AF_INET6, "::1"))
_RECEIVE_MAX_BYTES = 256 << 10


class Forward:
    """The open connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: dict[int, _socket.socket] = {}
        self._numbers = iter(range(1, 1 << 62))

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {
            "Dial": (pb.DialRequest, self._dial),
            "Receive": (pb.ReceiveRequest, self._receive),
            "Send": (pb.SendRequest, self._send),
            "Close": (pb.CloseRequest, self._close),
        }

    def _dial(self, request: pb.DialRequest) -> Message:
        connection = _connect(request.port)
        with self._lock:
            number = next(self._numbers)
            self._connections[number] = connection
        return pb.DialResponse(connection=number)

    def _receive(self, request: pb.ReceiveRequest) -> Message:
        limit = min(request.len or _RECEIVE_MAX_BYTES, _RECEIVE_MAX_BYTES)
        try:
            data = self._get(request).recv(limit)
        except ConnectionError:
            data = b""  # a reset is an end, to whoever reads
        return pb.ReceiveResponse(data=data)

    def _send(self, request: pb.SendRequest) -> Message:
        connection = self._get(request)
        try:
            if request.data:
                connection.sendall(request.data)
            else:
                connection.shutdown(_socket.SHUT_WR)
        except OSError as error:
            raise KataError(f"send: {error.strerror}", Code.UNAVAILABLE) from error
        return Empty()

    def _close(self, request: pb.CloseRequest) -> Message:
        with self._lock:
            connection = self._connections.pop(request.connection, None)
        if connection is not None:
            try:
                # Whoever still receives gets the end; the object's last user closes it.
                connection.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass  # the peer was faster
        return Empty()

    def _get(self, request: pb.ReceiveRequest | pb.SendRequest) -> _socket.socket:
        with self._lock:
            connection = self._connections.get(request.connection)
        if connection is None:
            raise KataError(f"find connection {request.connection}: it is closed", Code.NOT_FOUND)
        return connection


def _connect(port: int) -> _socket.socket:
    failures = []
    for family, address in _LOOPBACKS:
        connection = _socket.socket(family, _socket.SOCK_STREAM)
        try:
            connection.connect((address, port))
        except (OSError, OverflowError) as error:
            failures.append(f"{address}: {error}")
            connection.close()
        else:
            return connection
    raise KataError(f"connect to port {port}: {'; '.join(failures)}", Code.UNAVAILABLE)
