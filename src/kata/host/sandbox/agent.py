"""The agent as the host sees it: one method per request, each with its deadline."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence

from kata.rpc.client import Call, Client
from kata.rpc.pb import (
    agent_pb2,
    clock_pb2,
    csi_pb2,
    empty_pb2,
    forward_pb2,
    health_pb2,
    oci_pb2,
    settings_pb2,
    signals_pb2,
    template_pb2,
    types_pb2,
    volumes_pb2,
)

# Upstream's limit for requests that do not wait for anything in the guest.
_DEFAULT_TIMEOUT_S = 60.0
# Who kills something does not wait for a guest that hangs; engines give up after some 10 s more.
_KILL_TIMEOUT_S = 10.0


class Reading:
    """A request for output that is under way."""

    def __init__(self, call: Call) -> None:
        self._call = call

    def finish(self) -> bytes:
        """Wait for output and return it; nothing at its end."""
        return agent_pb2.ReadStreamResponse.FromString(self._call.wait(None)).data


class Agent:
    """Typed calls over one connection; borrows the client."""

    def __init__(self, client: Client, create_timeout_s: float) -> None:
        self._client = client
        self._create_timeout_s = create_timeout_s

    def check(self, timeout_s: float) -> None:
        """Return when the agent answers."""
        self._client.call(
            "grpc.Health/Check",
            health_pb2.CheckRequest(),
            health_pb2.HealthCheckResponse,
            timeout_s,
        )

    def prepare_template(self, timeout_s: float) -> None:
        """Get the guest ready to be saved."""
        self._client.call(
            "kata.Template/Prepare",
            template_pb2.PrepareRequest(),
            template_pb2.PrepareResponse,
            timeout_s,
        )

    def resume(self, seed: bytes, time_ns: int, timeout_s: float) -> None:
        """Make a copy of a saved guest distinct, and set its clock; returns when it answers."""
        self._client.call(
            "kata.Template/Resume",
            template_pb2.ResumeRequest(seed=seed, time_ns=time_ns),
            template_pb2.ResumeResponse,
            timeout_s,
        )

    def warm(self, storages: Sequence[agent_pb2.Storage]) -> None:
        """Let a guest without a sandbox do what ``create_sandbox`` will find done."""
        self._client.call(
            "kata.Template/Warm",
            template_pb2.WarmRequest(storages=storages),
            template_pb2.WarmResponse,
            _DEFAULT_TIMEOUT_S,
        )

    def set_time(self, time_ns: int) -> None:
        """Set the guest's clock; it is behind by as long as this takes to get there."""
        seconds, rest_ns = divmod(time_ns, 1_000_000_000)
        self._do(
            "SetGuestDateTime", agent_pb2.SetGuestDateTimeRequest(Sec=seconds, Usec=rest_ns // 1000)
        )

    def shift_clock(self, offset_ns: int, *, slew: bool) -> int:
        """Add to the guest's clock, at once or little by little; returns its time in ns."""
        answer = self._client.call(
            "kata.Clock/Shift",
            clock_pb2.ShiftRequest(offset_ns=offset_ns, slew=slew),
            clock_pb2.ShiftResponse,
            _DEFAULT_TIMEOUT_S,
        )
        return answer.time_ns

    def create_sandbox(self, request: agent_pb2.CreateSandboxRequest) -> None:
        """Set the guest up for a sandbox."""
        self._do("CreateSandbox", request)

    def destroy_sandbox(self, timeout_s: float) -> None:
        """End all containers, write everything back and power off."""
        self._do("DestroySandbox", agent_pb2.DestroySandboxRequest(), timeout_s)

    def create_container(self, request: agent_pb2.CreateContainerRequest) -> None:
        """Create a container up to the point where it waits for its start."""
        self._do("CreateContainer", request, self._create_timeout_s)

    def start_container(self, container_id: str) -> None:
        """Let a created container's process run."""
        self._do("StartContainer", agent_pb2.StartContainerRequest(container_id=container_id))

    def remove_container(self, container_id: str) -> None:
        """Kill what is left of a container and forget it."""
        self._do("RemoveContainer", agent_pb2.RemoveContainerRequest(container_id=container_id))

    def exec_process(self, container_id: str, exec_id: str, process: oci_pb2.Process) -> None:
        """Start another process in a container."""
        request = agent_pb2.ExecProcessRequest(container_id=container_id, exec_id=exec_id)
        request.process.CopyFrom(process)
        self._do("ExecProcess", request, self._create_timeout_s)

    def signal_process(self, container_id: str, exec_id: str, signum: int) -> None:
        """Send a signal; an empty exec id means the container."""
        self._do(
            "SignalProcess",
            agent_pb2.SignalProcessRequest(
                container_id=container_id, exec_id=exec_id, signal=signum
            ),
            _KILL_TIMEOUT_S if signum == signal.SIGKILL else _DEFAULT_TIMEOUT_S,
        )

    def signal_all(self, container_id: str, signum: int) -> None:
        """Send a signal to all processes of a container."""
        request = signals_pb2.SendAllRequest(container_id=container_id, signal=signum)
        self._client.call("kata.Signals/SendAll", request, empty_pb2.Empty, _DEFAULT_TIMEOUT_S)

    def wait_process(self, container_id: str, exec_id: str) -> int:
        """Wait for a process to end, for as long as it takes; returns its exit status."""
        request = agent_pb2.WaitProcessRequest(container_id=container_id, exec_id=exec_id)
        answer = self._client.call(
            "grpc.AgentService/WaitProcess", request, agent_pb2.WaitProcessResponse
        )
        return answer.status

    def pause_container(self, container_id: str) -> None:
        """Freeze all processes of a container."""
        self._do("PauseContainer", agent_pb2.PauseContainerRequest(container_id=container_id))

    def resume_container(self, container_id: str) -> None:
        """Let them go on."""
        self._do("ResumeContainer", agent_pb2.ResumeContainerRequest(container_id=container_id))

    def update_container(self, container_id: str, resources: oci_pb2.LinuxResources) -> None:
        """Change a container's limits."""
        request = agent_pb2.UpdateContainerRequest(container_id=container_id)
        request.resources.CopyFrom(resources)
        self._do("UpdateContainer", request)

    def stats_container(
        self, container_id: str, timeout_s: float = _DEFAULT_TIMEOUT_S
    ) -> agent_pb2.StatsContainerResponse:
        """Return a container's use of resources."""
        return self._client.call(
            "grpc.AgentService/StatsContainer",
            agent_pb2.StatsContainerRequest(container_id=container_id),
            agent_pb2.StatsContainerResponse,
            timeout_s,
        )

    def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write to a process's input; returns when it took the bytes, however long that lasts."""
        request = agent_pb2.WriteStreamRequest(
            container_id=container_id, exec_id=exec_id, data=data
        )
        answer = self._client.call(
            "grpc.AgentService/WriteStdin", request, agent_pb2.WriteStreamResponse
        )
        return answer.len

    def close_stdin(self, container_id: str, exec_id: str) -> None:
        """End a process's input."""
        self._do(
            "CloseStdin",
            agent_pb2.CloseStdinRequest(container_id=container_id, exec_id=exec_id),
        )

    def read_stream(self, stream: str, container_id: str, exec_id: str, limit: int) -> bytes:
        """Read ``Stdout`` or ``Stderr``, waiting for output; nothing at its end."""
        return self.begin_read(stream, container_id, exec_id, limit).finish()

    def begin_read(self, stream: str, container_id: str, exec_id: str, limit: int) -> Reading:
        """Ask for output and return at once."""
        request = agent_pb2.ReadStreamRequest(container_id=container_id, exec_id=exec_id, len=limit)
        return Reading(self._client.begin(f"grpc.AgentService/Read{stream}", request))

    def resize_terminal(self, container_id: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of a process's terminal, in characters."""
        request = agent_pb2.TtyWinResizeRequest(
            container_id=container_id, exec_id=exec_id, row=height, column=width
        )
        self._do("TtyWinResize", request)

    def update_interface(self, interface: types_pb2.Interface) -> None:
        """Give a network interface its name, addresses and settings; waits for the device."""
        request = agent_pb2.UpdateInterfaceRequest()
        request.interface.CopyFrom(interface)
        self._client.call(
            "grpc.AgentService/UpdateInterface", request, types_pb2.Interface, _DEFAULT_TIMEOUT_S
        )

    def update_routes(self, routes: Sequence[types_pb2.Route]) -> None:
        """Replace all routes that the kernel did not make itself."""
        request = agent_pb2.UpdateRoutesRequest()
        request.routes.Routes.extend(routes)
        self._client.call(
            "grpc.AgentService/UpdateRoutes", request, agent_pb2.Routes, _DEFAULT_TIMEOUT_S
        )

    def add_neighbours(self, neighbours: Sequence[types_pb2.ARPNeighbor]) -> None:
        """Add permanent neighbours."""
        request = agent_pb2.AddARPNeighborsRequest()
        request.neighbors.ARPNeighbors.extend(neighbours)
        self._do("AddARPNeighbors", request)

    def dial(self, port: int) -> int:
        """Connect to a port on the guest's loopback; returns the connection's number."""
        answer = self._client.call(
            "kata.Forward/Dial",
            forward_pb2.DialRequest(port=port),
            forward_pb2.DialResponse,
            _DEFAULT_TIMEOUT_S,
        )
        return answer.connection

    def receive(self, connection: int, limit: int) -> bytes:
        """Wait for data from a connection; nothing at its end."""
        request = forward_pb2.ReceiveRequest(connection=connection, len=limit)
        answer = self._client.call("kata.Forward/Receive", request, forward_pb2.ReceiveResponse)
        return answer.data

    def send(self, connection: int, data: bytes) -> None:
        """Send data over a connection, for as long as it takes; nothing ends what is sent."""
        request = forward_pb2.SendRequest(connection=connection, data=data)
        self._client.call("kata.Forward/Send", request, empty_pb2.Empty)

    def hang_up(self, connection: int) -> None:
        """Close a connection; one that is closed is no error."""
        request = forward_pb2.CloseRequest(connection=connection)
        self._client.call("kata.Forward/Close", request, empty_pb2.Empty, _DEFAULT_TIMEOUT_S)

    def sync_volume(self, name: str, entries: Sequence[volumes_pb2.VolumeEntry]) -> None:
        """Make a volume that is kept in step hold ``entries`` and nothing else."""
        request = volumes_pb2.SyncRequest(name=name, entries=entries)
        self._client.call("kata.Volumes/Sync", request, empty_pb2.Empty, _DEFAULT_TIMEOUT_S)

    def set_sysctls(self, settings: Mapping[str, str]) -> None:
        """Set the guest's kernel, for all containers."""
        request = settings_pb2.SetSysctlsRequest(settings=settings)
        self._client.call("kata.Settings/SetSysctls", request, empty_pb2.Empty, _DEFAULT_TIMEOUT_S)

    def get_iptables(self, *, is_ipv6: bool) -> bytes:
        """Return the rules of the guest's packet filter as iptables-save prints them."""
        answer = self._client.call(
            "grpc.AgentService/GetIPTables",
            agent_pb2.GetIPTablesRequest(is_ipv6=is_ipv6),
            agent_pb2.GetIPTablesResponse,
            _DEFAULT_TIMEOUT_S,
        )
        return answer.data

    def set_iptables(self, rules: bytes, *, is_ipv6: bool) -> bytes:
        """Replace the tables that ``rules`` names; returns what iptables-restore printed."""
        answer = self._client.call(
            "grpc.AgentService/SetIPTables",
            agent_pb2.SetIPTablesRequest(is_ipv6=is_ipv6, data=rules),
            agent_pb2.SetIPTablesResponse,
            _DEFAULT_TIMEOUT_S,
        )
        return answer.data

    def measure_volume(self, guest_path: str) -> csi_pb2.VolumeStatsResponse:
        """Return how full the file system of a storage is; ``guest_path`` is its mount point."""
        return self._client.call(
            "grpc.AgentService/GetVolumeStats",
            agent_pb2.VolumeStatsRequest(volume_guest_path=guest_path),
            csi_pb2.VolumeStatsResponse,
            _DEFAULT_TIMEOUT_S,
        )

    def resize_volume(self, guest_path: str, size: int) -> None:
        """Grow the file system of a storage, whose device has ``size`` bytes by now."""
        self._do(
            "ResizeVolume",
            agent_pb2.ResizeVolumeRequest(volume_guest_path=guest_path, size=size),
        )

    def set_policy(self, policy: str) -> None:
        """Give the agent another policy; UNIMPLEMENTED where it has none."""
        self._do("SetPolicy", agent_pb2.SetPolicyRequest(policy=policy))

    def get_metrics(self, timeout_s: float) -> str:
        """Return the guest's metrics as Prometheus text."""
        answer = self._client.call(
            "grpc.AgentService/GetMetrics",
            agent_pb2.GetMetricsRequest(),
            agent_pb2.Metrics,
            timeout_s,
        )
        return answer.metrics

    def wait_oom(self) -> str:
        """Wait until a container runs out of memory; returns its id."""
        answer = self._client.call(
            "grpc.AgentService/GetOOMEvent", agent_pb2.GetOOMEventRequest(), agent_pb2.OOMEvent
        )
        return answer.container_id

    def _do(self, method: str, request: object, timeout_s: float = _DEFAULT_TIMEOUT_S) -> None:
        self._client.call(
            f"grpc.AgentService/{method}",
            request,  # type: ignore[arg-type]
            empty_pb2.Empty,
            timeout_s,
        )
