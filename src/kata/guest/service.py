"""The AgentService: decode, check ids, delegate; nothing else.

Modules that only some requests need are imported by these: each costs a booting guest time.
"""

from __future__ import annotations

import threading

from kata.base.errors import Code, KataError
from kata.base.ids import check_id
from kata.guest import signals
from kata.oci.render import render_message
from kata.rpc.pb import agent_pb2 as pb
from kata.rpc.pb.empty_pb2 import Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from google.protobuf.message import Message

    from kata.base.log import Logger
    from kata.guest.container import Container
    from kata.guest.guest import Guest
    from kata.guest.process import Process
    from kata.guest.reaper import Reaper
    from kata.guest.sandbox import Sandbox
    from kata.rpc.server import Method

    class ProcessRequest(Protocol):
        """A request that names a process."""

        container_id: str
        exec_id: str


class AgentService:
    """Answer the host's requests on one sandbox."""

    def __init__(self, sandbox: Sandbox, guest: Guest, reaper: Reaper, log: Logger) -> None:
        self._sandbox = sandbox
        self._lock = threading.Lock()
        self._console: Container | None = None
        self._guest = guest
        self._reaper = reaper
        self._log = log
        self._metrics_asked = 0

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {
            "CreateSandbox": (pb.CreateSandboxRequest, self._create_sandbox),
            "DestroySandbox": (pb.DestroySandboxRequest, self._destroy_sandbox),
            "CreateContainer": (pb.CreateContainerRequest, self._create_container),
            "StartContainer": (pb.StartContainerRequest, self._start_container),
            "RemoveContainer": (pb.RemoveContainerRequest, self._remove_container),
            "UpdateContainer": (pb.UpdateContainerRequest, self._update_container),
            "StatsContainer": (pb.StatsContainerRequest, self._stats_container),
            "PauseContainer": (pb.PauseContainerRequest, self._pause_container),
            "ResumeContainer": (pb.ResumeContainerRequest, self._resume_container),
            "ExecProcess": (pb.ExecProcessRequest, self._exec_process),
            "SignalProcess": (pb.SignalProcessRequest, self._signal_process),
            "WaitProcess": (pb.WaitProcessRequest, self._wait_process),
            "WriteStdin": (pb.WriteStreamRequest, self._write_stdin),
            "CloseStdin": (pb.CloseStdinRequest, self._close_stdin),
            "ReadStdout": (pb.ReadStreamRequest, self._read_stdout),
            "ReadStderr": (pb.ReadStreamRequest, self._read_stderr),
            "TtyWinResize": (pb.TtyWinResizeRequest, self._resize_terminal),
            "GetOOMEvent": (pb.GetOOMEventRequest, self._get_oom_event),
            "UpdateEphemeralMounts": (pb.UpdateEphemeralMountsRequest, self._resize_storages),
            "GetGuestDetails": (pb.GuestDetailsRequest, self._get_guest_details),
            "GetMetrics": (pb.GetMetricsRequest, self._get_metrics),
            "CopyFile": (pb.CopyFileRequest, self._copy_file),
            "ReseedRandomDev": (pb.ReseedRandomDevRequest, self._reseed),
            "SetGuestDateTime": (pb.SetGuestDateTimeRequest, self._set_time),
            "OnlineCPUMem": (pb.OnlineCPUMemRequest, self._online),
            "MemHotplugByProbe": (pb.MemHotplugByProbeRequest, self._probe_memory),
            "GetVolumeStats": (pb.VolumeStatsRequest, self._get_volume_stats),
            "ResizeVolume": (pb.ResizeVolumeRequest, self._resize_volume),
            "UpdateInterface": (pb.UpdateInterfaceRequest, self._update_interface),
            "UpdateRoutes": (pb.UpdateRoutesRequest, self._update_routes),
            "ListInterfaces": (pb.ListInterfacesRequest, self._list_interfaces),
            "ListRoutes": (pb.ListRoutesRequest, self._list_routes),
            "AddARPNeighbors": (pb.AddARPNeighborsRequest, self._add_neighbours),
            "GetIPTables": (pb.GetIPTablesRequest, self._get_iptables),
            "SetIPTables": (pb.SetIPTablesRequest, self._set_iptables),
            **{name: (kind, _refuse(name)) for name, kind in _LATER.items()},
        }

    def _create_sandbox(self, request: pb.CreateSandboxRequest) -> Message:
        if request.sandbox_id:
            check_id("sandbox", request.sandbox_id)
        self._sandbox.create(request)
        return Empty()

    def _destroy_sandbox(self, _: pb.DestroySandboxRequest) -> Message:
        self._sandbox.destroy()
        self._sandbox.shut_down()
        return Empty()

    def _create_container(self, request: pb.CreateContainerRequest) -> Message:
        check_id("container", request.container_id)
        if request.exec_id:
            check_id("exec", request.exec_id)
        if not request.HasField("OCI"):
            raise KataError(
                f"create container {request.container_id}: the request has no specification",
                Code.INVALID_ARGUMENT,
            )
        if request.shared_mounts:
            raise KataError(
                f"create container {request.container_id}: shared_mounts are not supported",
                Code.UNIMPLEMENTED,
            )
        spec = render_message(request.OCI)
        if request.devices:
            from kata.guest import devices

            devices.place_devices(request.devices, spec, self._guest.modules.load)
        self._sandbox.create_container(
            request.container_id,
            request.exec_id,
            request.storages,
            spec,
            shares_pids=request.sandbox_pidns,
        )
        return Empty()

    def _start_container(self, request: pb.StartContainerRequest) -> Message:
        self._container(request.container_id).start()
        return Empty()

    def _remove_container(self, request: pb.RemoveContainerRequest) -> Message:
        check_id("container", request.container_id)
        self._sandbox.remove_container(request.container_id, request.timeout)
        return Empty()

    def _update_container(self, request: pb.UpdateContainerRequest) -> Message:
        self._container(request.container_id).update(render_message(request.resources))
        return Empty()

    def _stats_container(self, request: pb.StatsContainerRequest) -> Message:
        from kata.guest import stats

        return stats.collect(self._container(request.container_id).cgroup)

    def _pause_container(self, request: pb.PauseContainerRequest) -> Message:
        self._container(request.container_id).pause()
        return Empty()

    def _resume_container(self, request: pb.ResumeContainerRequest) -> Message:
        self._container(request.container_id).resume()
        return Empty()

    def _exec_process(self, request: pb.ExecProcessRequest) -> Message:
        check_id("exec", request.exec_id)
        if not request.process.Args:
            raise KataError(f"exec {request.exec_id}: no command", Code.INVALID_ARGUMENT)
        owner = self._owner(request.container_id)
        owner.execute(request.exec_id, render_message(request.process))
        return Empty()

    def _signal_process(self, request: pb.SignalProcessRequest) -> Message:
        owner = self._owner(request.container_id)
        # As upstream: a kill that names no process is for every process of the container.
        if not request.exec_id and request.signal == signals.SIGKILL:
            owner.kill_all()
        else:
            owner.get_process(request.exec_id).signal(request.signal)
        return Empty()

    def _wait_process(self, request: pb.WaitProcessRequest) -> Message:
        status = self._process(request).wait()
        self._forget_finished(request)
        return pb.WaitProcessResponse(status=status)

    def _write_stdin(self, request: pb.WriteStreamRequest) -> Message:
        self._process(request).write(request.data)
        return pb.WriteStreamResponse(len=len(request.data))

    def _close_stdin(self, request: pb.CloseStdinRequest) -> Message:
        self._process(request).close_stdin()
        return Empty()

    def _read_stdout(self, request: pb.ReadStreamRequest) -> Message:
        data = self._process(request).stdout().read(request.len)
        return self._read_answer(request, data)

    def _read_stderr(self, request: pb.ReadStreamRequest) -> Message:
        data = self._process(request).stderr().read(request.len)
        return self._read_answer(request, data)

    def _resize_terminal(self, request: pb.TtyWinResizeRequest) -> Message:
        self._process(request).resize(request.row, request.column)
        return Empty()

    def _get_oom_event(self, _: pb.GetOOMEventRequest) -> Message:
        return pb.OOMEvent(container_id=self._sandbox.oom.next_event())

    def _resize_storages(self, request: pb.UpdateEphemeralMountsRequest) -> Message:
        self._sandbox.storages.resize(request.storages)
        return Empty()

    def _get_guest_details(self, request: pb.GuestDetailsRequest) -> Message:
        from kata.guest import details

        return details.describe(request, self._guest)

    def _get_metrics(self, _: pb.GetMetricsRequest) -> Message:
        from kata.guest import metrics

        self._metrics_asked += 1
        return pb.Metrics(metrics=metrics.render(self._metrics_asked))

    def _copy_file(self, request: pb.CopyFileRequest) -> Message:
        from kata.guest import copyfile

        copyfile.copy(request)
        return Empty()

    def _reseed(self, request: pb.ReseedRandomDevRequest) -> Message:
        from kata.guest import entropy

        entropy.reseed(request.data)
        return Empty()

    def _set_time(self, request: pb.SetGuestDateTimeRequest) -> Message:
        from kata.guest import clock

        clock.set_time(request.Sec, request.Usec, self._guest)
        return Empty()

    def _online(self, request: pb.OnlineCPUMemRequest) -> Message:
        from kata.guest import hotplug

        hotplug.online(request)
        return Empty()

    def _probe_memory(self, request: pb.MemHotplugByProbeRequest) -> Message:
        from kata.guest import hotplug

        hotplug.probe_memory(list(request.memHotplugProbeAddr))
        return Empty()

    def _get_volume_stats(self, request: pb.VolumeStatsRequest) -> Message:
        from kata.guest import volume

        return volume.measure(self._sandbox.storages.check_known(request.volume_guest_path))

    def _resize_volume(self, request: pb.ResizeVolumeRequest) -> Message:
        from kata.guest import volume

        path = self._sandbox.storages.check_known(request.volume_guest_path)
        volume.resize(path, request.size)
        return Empty()

    def _update_interface(self, request: pb.UpdateInterfaceRequest) -> Message:
        from kata.guest import network

        return network.update_interface(request.interface, self._guest.modules.load)

    def _update_routes(self, request: pb.UpdateRoutesRequest) -> Message:
        from kata.guest import network

        return pb.Routes(Routes=network.update_routes(request.routes.Routes))

    def _list_interfaces(self, _: pb.ListInterfacesRequest) -> Message:
        from kata.guest import network

        return pb.Interfaces(Interfaces=network.list_interfaces())

    def _list_routes(self, _: pb.ListRoutesRequest) -> Message:
        from kata.guest import network

        return pb.Routes(Routes=network.list_routes())

    def _add_neighbours(self, request: pb.AddARPNeighborsRequest) -> Message:
        from kata.guest import network

        network.add_neighbours(request.neighbors.ARPNeighbors)
        return Empty()

    def _get_iptables(self, request: pb.GetIPTablesRequest) -> Message:
        from kata.guest import iptables

        rules = iptables.get_rules(self._reaper, is_ipv6=request.is_ipv6)
        return pb.GetIPTablesResponse(data=rules)

    def _set_iptables(self, request: pb.SetIPTablesRequest) -> Message:
        from kata.guest import iptables

        said = iptables.set_rules(self._reaper, request.data, is_ipv6=request.is_ipv6)
        return pb.SetIPTablesResponse(data=said)

    def _container(self, container_id: str) -> Container:
        return self._sandbox.get_container(check_id("container", container_id))

    def _process(self, request: ProcessRequest) -> Process:
        return self._owner(request.container_id).get_process(request.exec_id)

    def _owner(self, container_id: str) -> Container:
        """Return whose processes are meant: a container's, or (without an id) the guest's own."""
        if container_id:
            return self._container(container_id)
        with self._lock:
            if self._console is None:
                from kata.guest.console import Console

                self._console = Console(self._reaper, self._log)
            return self._console

    def _read_answer(self, request: pb.ReadStreamRequest, data: bytes) -> Message:
        if not data:
            self._forget_finished(request)
        return pb.ReadStreamResponse(data=data)

    def _forget_finished(self, request: ProcessRequest) -> None:
        try:
            self._owner(request.container_id).forget_finished(request.exec_id)
        except KataError:
            pass  # the container was removed meanwhile


# In the protocol, and not in this agent yet.
_LATER = {
    "RemoveStaleVirtiofsShareMounts": pb.RemoveStaleVirtiofsShareMountsRequest,
    "GetDiagnosticData": pb.GetDiagnosticDataRequest,
    "MemAgentMemcgSet": pb.MemAgentMemcgConfig,
    "MemAgentCompactSet": pb.MemAgentCompactConfig,
    "AddSwap": pb.AddSwapRequest,
    "AddSwapPath": pb.AddSwapPathRequest,
    "SetPolicy": pb.SetPolicyRequest,
}


def _refuse(name: str) -> Callable[[Message], Message]:
    def refuse(_: Message) -> Message:
        raise KataError(f"call {name}: this agent does not implement it", Code.UNIMPLEMENTED)

    return refuse
