"""What programs other than the engine ask a sandbox: HTTP at ``shim-monitor.sock``, as upstream's.

``kata-monitor`` and ``kata-runtime`` are its clients.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial

from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.base.statefolder import SOCKET
from kata.host.sandbox.container import Container
from kata.host.sandbox.mounts import name_direct_volume
from kata.host.sandbox.record import state_folder
from kata.host.sandbox.sandbox import Sandbox
from kata.host.sandbox.states import State
from kata.host.sandbox.vsock import AGENT_PORT
from kata.host.shim.http import JSON, BadRequestError, HttpServer, Request, Response
from kata.host.shim.metrics import Metrics
from kata.host.shim.overhead import GuestUse
from kata.rpc.durations import Durations
from kata.rpc.pb import csi_pb2

# Prometheus's text format.
_EXPOSITION = "text/plain; version=0.0.4; charset=utf-8"
_ALIVE = (State.RUNNING, State.PAUSED)


class Management:
    """The routes.  ``list_containers`` gives those of the sandbox that is served."""

    def __init__(
        self, sandbox: Sandbox, list_containers: Callable[[], Sequence[Container]], log: Logger
    ) -> None:
        self._sandbox = sandbox
        self._list_containers = list_containers
        self._log = log
        self._metrics: Metrics

    def serve(self, durations: Durations) -> None:
        """Listen until the sandbox ends, which does not depend on it.

        ``durations`` are those of the engine's calls.
        """
        path = f"{state_folder(self._sandbox.id)}/{SOCKET}"
        try:
            self._metrics = Metrics(self._sandbox, self._list_uses, durations, self._log)
            server = HttpServer(path, self.respond, self._log)
        except (KataError, OSError) as error:  # the machine has ended meanwhile
            self._log.warning("sandbox cannot be asked", reason=describe_error(error))
            return
        self._sandbox.defer("management", server.close)

    def respond(self, request: Request) -> Response:
        """Answer one request.  Raises NOT_FOUND for a path that is none, or KataError."""
        routes: dict[tuple[str, str], Callable[[Request], Response]] = {
            ("GET", "/metrics"): self._get_metrics,
            ("GET", "/agent-url"): self._get_agent_url,
            ("GET", "/sandbox"): self._get_sandbox,
            ("GET", "/iptables"): partial(self._get_rules, is_ipv6=False),
            ("PUT", "/iptables"): partial(self._set_rules, is_ipv6=False),
            ("GET", "/ip6tables"): partial(self._get_rules, is_ipv6=True),
            ("PUT", "/ip6tables"): partial(self._set_rules, is_ipv6=True),
            ("PUT", "/policy"): self._set_policy,
            # Upstream's Go programs use the first, those in Rust the second.
            ("GET", "/direct-volume/stats"): self._get_volume_stats,
            ("POST", "/direct-volume/stats"): self._get_volume_stats,
            ("POST", "/direct-volume/resize"): self._resize_volume,
        }
        route = routes.get((request.method, request.path))
        if route is not None:
            return route(request)
        if any(request.path == path for _, path in routes):
            raise BadRequestError(f"{request.method} {request.path}: no such method", 405)
        raise KataError(f"find {request.path}: no such path", Code.NOT_FOUND)

    def _get_metrics(self, _: Request) -> Response:
        return Response(self._metrics.render().encode(), _EXPOSITION)

    def _get_agent_url(self, _: Request) -> Response:
        cid = self._sandbox.machine.vsock_cid
        if cid is None:
            raise KataError(
                f"find the agent's address in sandbox {self._sandbox.id}: it is reached by a"
                " virtio-serial port, which the shim holds",
                Code.UNIMPLEMENTED,
                "use_vsock in [hypervisor.qemu], where the host has vhost-vsock",
            )
        return Response(f"vsock://{cid}:{AGENT_PORT}\n".encode())

    def _get_sandbox(self, _: Request) -> Response:
        pod = {f"cri_{key}": text for key, text in asdict(self._sandbox.pod.identity).items()}
        return Response(json.dumps({"id": self._sandbox.id, **pod}).encode(), JSON)

    def _get_rules(self, _: Request, *, is_ipv6: bool) -> Response:
        return Response(self._sandbox.agent.get_iptables(is_ipv6=is_ipv6))

    def _set_rules(self, request: Request, *, is_ipv6: bool) -> Response:
        return Response(self._sandbox.agent.set_iptables(request.body, is_ipv6=is_ipv6))

    def _set_policy(self, request: Request) -> Response:
        self._sandbox.agent.set_policy(_decode(request.body))
        return Response(b"")

    def _get_volume_stats(self, request: Request) -> Response:
        from urllib.parse import parse_qs

        path = parse_qs(request.query).get("path", [""])[0]
        stats = self._sandbox.agent.measure_volume(_find_point(path))
        return Response(render_volume_stats(stats).encode(), JSON)

    def _resize_volume(self, request: Request) -> Response:
        try:
            wish = json.loads(_decode(request.body))
            path, size = str(wish["VolumePath"]), int(wish["Size"])
        except (ValueError, TypeError, KeyError) as error:
            raise KataError(
                f"read request: no JSON with VolumePath and Size: {error}", Code.INVALID_ARGUMENT
            ) from error
        point = _find_point(path)
        self._sandbox.disks.grow(point, size)
        self._sandbox.agent.resize_volume(point, size)
        return Response(b"")

    def _list_uses(self, deadline: float) -> list[GuestUse]:
        """Ask the guest.  Raises KataError when it does not answer by ``deadline``, or at all."""
        uses = [
            self._find_use(container.id, deadline)
            for container in self._list_containers()
            if container.process.state in _ALIVE
        ]
        return [use for use in uses if use is not None]

    def _find_use(self, container_id: str, deadline: float) -> GuestUse | None:
        left_s = max(0.0, deadline - time.monotonic())
        try:
            stats = self._sandbox.agent.stats_container(container_id, left_s).cgroup_stats
        except KataError as error:
            if error.code != Code.NOT_FOUND:
                raise
            return None  # it has just ended
        cpu_s = stats.cpu_stats.cpu_usage.total_usage / 1e9
        return GuestUse(container_id, stats.memory_stats.usage.usage, cpu_s)


def render_volume_stats(stats: csi_pb2.VolumeStatsResponse) -> str:
    """Return how full a volume is, as upstream prints it: its message as JSON."""
    usage = [
        {
            "available": each.available,
            "total": each.total,
            "used": each.used,
            "unit": each.unit,
        }
        for each in stats.usage
    ]
    condition = {
        "abnormal": stats.volume_condition.abnormal,
        "message": stats.volume_condition.message,
    }
    return json.dumps({"usage": usage, "volume_condition": condition})


def _find_point(path: str) -> str:
    """Return where the guest mounts a volume.  Raises INVALID_ARGUMENT for what is no path."""
    if not os.path.isabs(path):
        raise KataError(f"find volume {path!r}: no absolute path", Code.INVALID_ARGUMENT)
    return name_direct_volume(path)


def _decode(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise KataError(f"read request: {error}", Code.INVALID_ARGUMENT) from error
