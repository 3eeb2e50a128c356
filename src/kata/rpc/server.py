"""Answer ttrpc requests: decode, call the method, encode.  Knows nothing of what the methods do."""

from __future__ import annotations

import threading
import time

from kata.base.errors import Code, KataError, describe_error, error_code
from kata.rpc import frame
from kata.rpc.pb import ttrpc_pb2
from kata.rpc.workers import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, TypeAlias

    from google.protobuf.message import Message

    from kata.base.log import Logger
    from kata.rpc.durations import Durations

    # Request class and the method that takes such a request and returns the answer's message.
    Method: TypeAlias = tuple[type[Any], Callable[[Any], Message]]


# What each thread has to do when its request has been answered.
_later = threading.local()


def after_answer(call: Callable[[], None]) -> None:
    """Have ``call`` called when the request that this thread handles has been answered."""
    _later.call = call


class Server:
    """Serve a table of methods on any number of channels."""

    def __init__(
        self,
        services: Mapping[str, Mapping[str, Method]],
        log: Logger,
        durations: Durations | None = None,
    ) -> None:
        """Take ``services``: service name -> method name -> (request class, method).

        ``durations`` notes how long each method takes.
        """
        self._services = services
        self._log = log
        self._durations = durations
        self._workers = Workers("rpc")

    def serve(self, channel: frame.Channel) -> None:
        """Answer the requests of one channel until it ends or breaks the protocol.

        Each request runs on a thread of its own; this one reads.  The caller closes the channel.
        """
        while True:
            try:
                incoming = channel.read_frame()
            except frame.OversizedError as error:
                self._answer(channel, error.stream_id, _failure(error))
                continue
            except (frame.FrameError, OSError) as error:
                self._log.warning("connection dropped", error=describe_error(error))
                return
            if incoming is None:
                return
            if incoming.kind == frame.REQUEST:
                self._workers.submit(lambda frm=incoming: self._handle(channel, frm))  # type: ignore[misc]
            else:
                refusal = KataError("read frame: no such stream", Code.INVALID_ARGUMENT)
                self._answer(channel, incoming.stream_id, _failure(refusal))

    def _handle(self, channel: frame.Channel, incoming: frame.Frame) -> None:
        _later.call = None
        self._answer(channel, incoming.stream_id, self._respond(incoming.data))
        if _later.call is not None:
            _later.call()

    def _respond(self, data: bytes) -> ttrpc_pb2.Response:
        name = "?"
        try:
            request = _decode(ttrpc_pb2.Request, data)
            name = f"{request.service}/{request.method}"
            kind, method = self._find_method(request.service, request.method)
            answer = self._call(request.method, method, _decode(kind, request.payload))
        except KataError as error:
            self._log.info("request failed", method=name, error=describe_error(error))
            return _failure(error)
        except Exception as error:  # noqa: BLE001  # a request must get an answer
            self._log.error("request failed", method=name, error=describe_error(error), exc=error)
            return _failure(error)
        return ttrpc_pb2.Response(payload=answer.SerializeToString())

    def _call(self, name: str, method: Callable[[Any], Message], request: Any) -> Message:
        if self._durations is None:
            return method(request)
        began = time.monotonic()
        try:
            return method(request)
        finally:
            self._durations.note(name, time.monotonic() - began)

    def _find_method(self, service: str, method: str) -> Method:
        try:
            return self._services[service][method]
        except KeyError:
            raise KataError(
                f"call {service}/{method}: not implemented", Code.UNIMPLEMENTED
            ) from None

    def _answer(self, channel: frame.Channel, stream_id: int, response: ttrpc_pb2.Response) -> None:
        try:
            channel.write_frame(stream_id, frame.RESPONSE, response.SerializeToString())
        except frame.OversizedError as error:
            channel.write_frame(stream_id, frame.RESPONSE, _failure(error).SerializeToString())
        except OSError as error:
            self._log.info("answer not delivered", error=str(error))


def _decode(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except Exception as error:
        # protobuf's DecodeError; its class is not imported here for one except clause
        raise KataError(
            f"decode {kind.DESCRIPTOR.full_name}: {error}", Code.INVALID_ARGUMENT
        ) from error


def _failure(error: BaseException) -> ttrpc_pb2.Response:
    # A path in it may hold bytes that are no UTF-8, which protobuf refuses.
    text = describe_error(error).encode("utf-8", "backslashreplace").decode()
    status = ttrpc_pb2.Status(code=error_code(error), message=text)
    return ttrpc_pb2.Response(status=status)
