"""A small HTTP/1.1 server on a Unix socket: one request a connection.

The standard library's costs every pod 6 MB.  Who may connect is root, by the folder's permissions;
so this is about mistakes and slowness, not about enemies.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from kata.base.errors import Code, KataError, describe_error, error_code
from kata.base.log import Logger

TEXT, JSON = "text/plain; charset=utf-8", "application/json"
_HEAD_BYTES = 16 << 10
# As much as one message to the agent holds.
_BODY_BYTES = 4 << 20
# A client has this long for each piece of its request, and to take one of the answer.
_CLIENT_S = 10.0
_RETRY_S = 0.5
_BACKLOG = 16
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}
_STATUS = {
    Code.INVALID_ARGUMENT: 400,
    Code.PERMISSION_DENIED: 403,
    Code.NOT_FOUND: 404,
    Code.RESOURCE_EXHAUSTED: 413,
    Code.OUT_OF_RANGE: 400,
    Code.ALREADY_EXISTS: 409,
    Code.FAILED_PRECONDITION: 409,
    Code.UNIMPLEMENTED: 501,
    Code.UNAVAILABLE: 503,
    Code.DEADLINE_EXCEEDED: 504,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked; ``query`` is what stands behind the question mark, as it came."""

    method: str
    path: str
    query: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """An answer."""

    body: bytes
    kind: str = TEXT
    status: int = 200


class BadRequestError(KataError):
    """The request cannot be read, or its method is none of the path's."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(f"read request: {reason}", Code.INVALID_ARGUMENT)
        self.status = status


class HttpServer:
    """Listens from its making until ``close``; answers each connection on a thread of its own."""

    def __init__(self, path: str, respond: Callable[[Request], Response], log: Logger) -> None:
        """Listen at ``path``, which does not exist.  ``respond`` may raise KataError."""
        self._path = path
        self._respond = respond
        self._log = log
        self._closed = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(path)
            self._listener.listen(_BACKLOG)
        except OSError as error:
            self._listener.close()
            raise KataError(f"listen on {path}: {error.strerror or error}") from error
        threading.Thread(target=self._accept, name="http", daemon=True).start()

    def close(self) -> None:
        """Listen no more, and take the socket away first.  May be called twice."""
        if not self._closed.is_set():
            self._closed.set()
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass  # it went with its folder
            try:
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
            except OSError:
                pass  # it was awake, and has

    def _accept(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                try:
                    connection, _ = self._listener.accept()
                    thread = threading.Thread(
                        target=self._serve, args=(connection,), name="http", daemon=True
                    )
                    thread.start()
                except (OSError, RuntimeError) as error:  # no descriptors or threads are left
                    if not self._closed.is_set():
                        self._log.warning("no connection accepted", error=describe_error(error))
                        self._closed.wait(_RETRY_S)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_CLIENT_S)
            try:
                response = self._answer(connection)
                connection.sendall(_render(response))
            except OSError as error:
                self._log.debug("answer not delivered", error=str(error))

    def _answer(self, connection: socket.socket) -> Response:
        """Return the answer to what comes.  Raises OSError when nothing whole does."""
        try:
            request = read_request(connection.recv)
        except BadRequestError as error:
            return _failure(error, error.status)
        try:
            return self._respond(request)
        except BadRequestError as error:
            return _failure(error, error.status)
        except KataError as error:
            return _failure(error, _STATUS.get(error.code, 500))
        except Exception as error:  # noqa: BLE001  # a request must get an answer
            self._log.error("request failed", error=describe_error(error), exc=error)
            return _failure(error, _STATUS.get(error_code(error), 500))


def read_request(receive: Callable[[int], bytes]) -> Request:
    """Read one request; ``receive`` is as a socket's.  Raises BadRequestError."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = receive(_HEAD_BYTES)
        data += more
        if not more or len(data) > _HEAD_BYTES + _BODY_BYTES:
            raise BadRequestError("it has no end")
        if b"\r\n\r\n" not in data and len(data) > _HEAD_BYTES:
            raise BadRequestError(f"its head has more than {_HEAD_BYTES} bytes")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise BadRequestError(f"{first[:80]!r} is no HTTP/1 request")
    length = _find_length(lines)
    while len(body) < length:
        more = receive(length - len(body))
        if not more:
            raise BadRequestError(f"its body ends after {len(body)} of {length} bytes")
        body += more
    path, _, query = words[1].partition("?")
    return Request(words[0], path, query, body[:length])


def _find_length(lines: list[str]) -> int:
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "transfer-encoding":
            raise BadRequestError("its body comes in pieces", 501)
        if name.lower() == "content-length":
            if not value.strip().isdecimal():
                raise BadRequestError(f"Content-Length {value.strip()!r}")
            if int(value) > _BODY_BYTES:
                raise BadRequestError(f"its body has more than {_BODY_BYTES} bytes", 413)
            return int(value)
    return 0


def _failure(error: BaseException, status: int) -> Response:
    text = f"{describe_error(error)}\n"
    return Response(text.encode("utf-8", "backslashreplace"), TEXT, status)


def _render(response: Response) -> bytes:
    head = (
        f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\n"
        f"Content-Type: {response.kind}\r\n"
        f"Content-Length: {len(response.body)}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("latin-1") + response.body
