"""Call ttrpc methods over one channel, from any number of threads."""

from __future__ import annotations

import threading
import time

from kata.base.errors import Code, KataError
from kata.rpc import frame
from kata.rpc.pb import ttrpc_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from google.protobuf.message import Message

    from kata.rpc.durations import Durations

    Answer = TypeVar("Answer", bound=Message)


class RpcError(KataError):
    """The peer answered with an error status."""


class ConnectionLostError(KataError):
    """The connection ended before the answer came."""


class Call:
    """One request under way."""

    __slots__ = ("_done", "_error", "_method", "_payload", "stream_id")

    def __init__(self, method: str, stream_id: int) -> None:
        self.stream_id = stream_id
        self._method = method
        self._done = threading.Event()
        self._payload = b""
        self._error: KataError | None = None

    def settle(self, payload: bytes = b"", error: KataError | None = None) -> None:
        """Give the call its end; for the client's reader."""
        self._payload = payload
        self._error = error
        self._done.set()

    def wait(self, deadline: float | None) -> bytes:
        """Return the answer's bytes, raise its error, or DEADLINE_EXCEEDED at ``deadline``.

        ``deadline`` is on the clock of time.monotonic(); None waits for ever.
        """
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not self._done.wait(remaining):
            raise KataError(f"call {self._method}: no answer in time", Code.DEADLINE_EXCEEDED)
        if self._error is not None:
            raise self._error
        return self._payload


class Client:
    """A ttrpc client.  Owns its channel and one reading thread; ``close()`` ends both."""

    def __init__(
        self,
        channel: frame.Channel,
        on_lost: Callable[[KataError], None] | None = None,
        durations: Durations | None = None,
    ) -> None:
        """Start reading.  ``on_lost`` is called once, on the reading thread, when the peer ends.

        ``durations`` notes how long each ``call`` takes, by the request's name.
        """
        self._channel = channel
        self._durations = durations
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._calls: dict[int, Call] = {}
        self._next_id = 1
        self._lost: KataError | None = None
        self._closing = False
        threading.Thread(target=self._read, name="rpc-client", daemon=True).start()

    def call(
        self,
        method: str,
        request: Message,
        answer: type[Answer],
        timeout_s: float | None = None,
    ) -> Answer:
        """Call ``service/Method`` and return the decoded answer.

        Raises RpcError with the peer's code, ConnectionLostError (UNAVAILABLE), or KataError
        (DEADLINE_EXCEEDED) after ``timeout_s``.
        """
        began = time.monotonic()
        deadline = None if timeout_s is None else began + timeout_s
        try:
            call = self.begin(method, request, timeout_s)
            try:
                payload = call.wait(deadline)
            finally:
                self._forget(call.stream_id)  # its answer may never come
        finally:
            if self._durations is not None:
                self._durations.note(request.DESCRIPTOR.full_name, time.monotonic() - began)
        return answer.FromString(payload)

    def begin(self, method: str, request: Message, timeout_s: float | None = None) -> Call:
        """Send a request and return at once; DEADLINE_EXCEEDED when the peer does not take it."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        service, _, name = method.rpartition("/")
        message = ttrpc_pb2.Request(
            service=service,
            method=name,
            payload=request.SerializeToString(),
            timeout_nano=0 if timeout_s is None else int(timeout_s * 1e9),
        ).SerializeToString()
        with self._lock:
            if self._lost is not None:
                raise ConnectionLostError(f"call {method}: {self._lost}", Code.UNAVAILABLE)
            call = Call(method, self._next_id)
            self._next_id += 2  # odd ids are the client's
            self._calls[call.stream_id] = call
        try:
            self._channel.write_frame(
                call.stream_id, frame.REQUEST, message, frame.REMOTE_CLOSED, deadline
            )
        except OSError as error:
            self._forget(call.stream_id)
            raise ConnectionLostError(f"call {method}: {error}", Code.UNAVAILABLE) from error
        except KataError as error:
            self._forget(call.stream_id)
            if error.code != Code.DEADLINE_EXCEEDED:
                raise
            raise KataError(f"call {method}: {error}", Code.DEADLINE_EXCEEDED) from error
        return call

    def _forget(self, stream_id: int) -> None:
        with self._lock:
            self._calls.pop(stream_id, None)

    def close(self) -> None:
        """Hang up; calls under way fail.  May be called twice."""
        self._closing = True
        self._channel.hang_up()

    def _read(self) -> None:
        lost = KataError("connection closed by peer", Code.UNAVAILABLE)
        try:
            while (incoming := self._next_frame()) is not None:
                with self._lock:
                    call = self._calls.pop(incoming.stream_id, None)
                if call is not None:
                    _settle(call, incoming.data)
        except (KataError, OSError) as error:
            lost = KataError(f"connection broken: {error}", Code.UNAVAILABLE)
        with self._lock:
            self._lost = lost
            calls, self._calls = self._calls, {}
        for call in calls.values():
            call.settle(error=ConnectionLostError(str(lost), Code.UNAVAILABLE))
        if self._on_lost is not None and not self._closing:
            self._on_lost(lost)

    def _next_frame(self) -> frame.Frame | None:
        while True:
            try:
                return self._channel.read_frame()
            except frame.OversizedError as error:
                with self._lock:
                    call = self._calls.pop(error.stream_id, None)
                if call is not None:
                    call.settle(error=error)


def _settle(call: Call, data: bytes) -> None:
    try:
        response = ttrpc_pb2.Response.FromString(data)
    except Exception as error:  # noqa: BLE001  # protobuf's DecodeError
        call.settle(error=KataError(f"decode answer: {error}", Code.INTERNAL))
        return
    if response.status.code:
        call.settle(error=RpcError(response.status.message, response.status.code))
    else:
        call.settle(response.payload)
