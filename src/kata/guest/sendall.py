"""The Signals service: a signal for all processes of a container."""

from __future__ import annotations

from kata.base.ids import check_id
from kata.rpc.pb import signals_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.guest.sandbox import Sandbox
    from kata.rpc.server import Method


class SendAll:
    """The service's methods."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {"SendAll": (pb.SendAllRequest, self._send_all)}

    def _send_all(self, request: pb.SendAllRequest) -> Message:
        container = self._sandbox.get_container(check_id("container", request.container_id))
        container.signal_all(request.signal)
        return Empty()
