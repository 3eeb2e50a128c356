"""The Health service: the first thing that the host asks."""

from __future__ import annotations

from kata.rpc.pb import health_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.rpc.server import Method

# Upstream's name for the version of the protocol that the agent speaks.
PROTOCOL_VERSION = "0.0.1"
AGENT_VERSION = "0.1.0"


def methods() -> dict[str, Method]:
    """Return the service's table."""
    return {
        "Check": (health_pb2.CheckRequest, _check),
        "Version": (health_pb2.CheckRequest, _version),
    }


def _check(_: health_pb2.CheckRequest) -> health_pb2.HealthCheckResponse:
    return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


def _version(_: health_pb2.CheckRequest) -> health_pb2.VersionCheckResponse:
    return health_pb2.VersionCheckResponse(
        grpc_version=PROTOCOL_VERSION, agent_version=AGENT_VERSION
    )
