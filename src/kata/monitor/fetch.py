"""Answers of shims: HTTP over their Unix sockets, of all of them at once, within one deadline.

One thread and one selector, so that shims that do not answer cost neither threads nor others' time.
"""

from __future__ import annotations

import re
import selectors
import socket
import time
from dataclasses import dataclass

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Fifteen times what a sandbox usually has.
MAX_BYTES = 2 << 20
_CHUNK = 1 << 18
_MAX_HEAD = 8 << 10
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: |\r\n)")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of which socket."""

    socket_path: str
    # Path and query, as they stand in the request.
    target: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whatever its status."""

    status: int
    body: bytes


def fetch_all(requests: Sequence[Request], timeout_s: float) -> list[Answer | KataError]:
    """Ask all at once; return the answers, or why there is none, in the order of the requests."""
    deadline = time.monotonic() + timeout_s
    exchanges = [_Exchange(request) for request in requests]
    with selectors.DefaultSelector() as selector:
        for exchange in exchanges:
            exchange.open(selector)
        while selector.get_map():
            left_s = deadline - time.monotonic()
            for key, _ in selector.select(max(0.0, left_s)):
                key.data.go_on(selector)
            if left_s <= 0:
                break
        for exchange in exchanges:
            exchange.give_up(timeout_s)
    return [exchange.result for exchange in exchanges]


def fetch(request: Request, timeout_s: float) -> Answer:
    """Ask one.  Raises KataError where there is no answer."""
    (result,) = fetch_all([request], timeout_s)
    if isinstance(result, KataError):
        raise result
    return result


class _Exchange:
    """One request and its answer."""

    def __init__(self, request: Request) -> None:
        self.result: Answer | KataError = KataError("not asked")
        self._request = request
        self._socket: socket.socket | None = None
        self._data = bytearray()

    def open(self, selector: selectors.BaseSelector) -> None:
        """Connect, and send the request, which always fits into the socket."""
        head = f"GET {self._request.target} HTTP/1.1\r\nHost: shim\r\nConnection: close\r\n\r\n"
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            self._socket.connect(self._request.socket_path)
            self._socket.sendall(head.encode("ascii"))
            selector.register(self._socket, selectors.EVENT_READ, self)
        except OSError as error:
            self._close()
            self._fail(error.strerror or str(error), error)

    def go_on(self, selector: selectors.BaseSelector) -> None:
        """Read what has come; at the end there is a result, and the connection is closed."""
        assert self._socket is not None
        try:
            chunk = self._socket.recv(_CHUNK)
            self._data += chunk
            self.result = _parse_answer(self._data, is_whole=not chunk)
        except _MoreError:
            return
        except OSError as error:
            self._fail(error.strerror or str(error), error)
        except KataError as error:
            self._fail(error.message, error)
        selector.unregister(self._socket)
        self._close()

    def give_up(self, timeout_s: float) -> None:
        """Close what is still open."""
        if self._socket is not None:
            self._close()
            self._fail(f"no answer within {timeout_s:g} s", None, Code.DEADLINE_EXCEEDED)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._data = bytearray()

    def _fail(self, reason: str, cause: BaseException | None, code: int = Code.UNAVAILABLE) -> None:
        path = f"{self._request.socket_path}{self._request.target}"
        self.result = KataError(f"get {path}: {reason}", code)
        self.result.__cause__ = cause


class _MoreError(Exception):
    """The answer is not whole yet."""


def _parse_answer(data: bytearray, *, is_whole: bool) -> Answer:
    """Return the answer.  Raises _MoreError when more has to come, KataError when it is none."""
    head_end = data.find(b"\r\n\r\n", 0, _MAX_HEAD)
    if head_end < 0:
        if is_whole or len(data) >= _MAX_HEAD:
            raise KataError(f"no HTTP answer in {len(data)} bytes")
        raise _MoreError
    head = bytes(data[: head_end + 2])
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if not status or not length:
        raise KataError("the answer has no HTTP status, or no length")
    size = int(length[1])
    if size > MAX_BYTES:
        raise KataError(f"the answer has {size} bytes, at most {MAX_BYTES} are read")
    body = data[head_end + 4 :]
    if len(body) >= size:
        return Answer(int(status[1]), bytes(body[:size]))
    if is_whole:
        raise KataError(f"the answer ends after {len(body)} of {size} bytes")
    raise _MoreError
