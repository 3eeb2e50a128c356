"""The Settings service: what the pod's author wants of the guest's kernel as a whole."""

from __future__ import annotations

from kata.guest import sysctl
from kata.rpc.pb import settings_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from google.protobuf.message import Message

    from kata.rpc.server import Method


class Settings:
    """The service's methods."""

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {"SetSysctls": (pb.SetSysctlsRequest, self._set_sysctls)}

    def _set_sysctls(self, request: pb.SetSysctlsRequest) -> Message:
        sysctl.apply_machine(request.settings)
        return Empty()
