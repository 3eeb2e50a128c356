"""One pod, or one lone container: a virtual machine and the containers in it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from kata.base import cgroups
from kata.base.errors import Code, KataError, describe_error
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.base.mountinfo import list_mounts
from kata.base.processes import Spawner, read_start_time
from kata.base.statefolder import ROOT
from kata.base.sysctls import parse_setting
from kata.base.trace import SHOWN, Trace
from kata.config.records import Config
from kata.host.hypervisor.accelerator import choose_accelerator
from kata.host.hypervisor.interface import Hypervisor
from kata.host.network.network import NetworkSettings
from kata.host.resource import cgroup
from kata.host.resource.memory import check_spares
from kata.host.resource.sizing import OVERHEAD_MIB, Size, plan_size
from kata.host.sandbox import plan, vsock
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.cleanup import clean_up, is_orphaned
from kata.host.sandbox.clock import ClockKeeper
from kata.host.sandbox.container import Container
from kata.host.sandbox.disks import Disks
from kata.host.sandbox.launch import launch_machine, tell_factory
from kata.host.sandbox.machine import Machine, MachineContext, find_free_mib
from kata.host.sandbox.network import SandboxNetwork
from kata.host.sandbox.pod import PodPlan
from kata.host.sandbox.portforward import PortForward
from kata.host.sandbox.record import ProcessEntry, RecordFile
from kata.host.sandbox.spare import Spare
from kata.host.sandbox.undo import UndoStack
from kata.host.sandbox.volumes import FollowedVolumes
from kata.host.share import layout
from kata.rpc.pb import agent_pb2
from kata.rpc.pb.volumes_pb2 import VolumeEntry

# The guest has this long to write back and power off; then the machine is killed.
_POWER_OFF_S = 5.0
_NO_POD = PodPlan()


class Sandbox:
    """Owns the machine; containers are created by their own and borrow the agent."""

    def __init__(
        self,
        sandbox_id: str,
        config: Config,
        log: Logger,
        spawner: Spawner,
        pod: PodPlan = _NO_POD,
        spare: Spare | None = None,
    ) -> None:
        """``spare`` becomes this sandbox's, whether it uses it or not."""
        self.id = sandbox_id
        self.config = config
        self.pod = pod
        self._spare = spare
        self._had_spare = spare is not None
        self._log = log
        self._spawner = spawner
        self._undo = UndoStack()
        self.trace = Trace()
        self._record = RecordFile(sandbox_id)
        self._shared = layout.shared_paths(sandbox_id)
        self.share_names = layout.ShareNames()
        self._machine: Machine | None = None
        self._network: SandboxNetwork | None = None
        self._volumes = FollowedVolumes(self._send_volume, self._undo, log)
        self.disks = Disks(sandbox_id, lambda: self.hypervisor, log)
        self._stop_lock = threading.Lock()
        self._stopped = False
        self._aborted = False

    @property
    def agent(self) -> Agent:
        """Return the agent; UNAVAILABLE when the machine is gone."""
        if self._machine is None or self._stopped:
            raise KataError(f"use sandbox {self.id}: its machine has ended", Code.UNAVAILABLE)
        return self._machine.agent

    @property
    def machine(self) -> Machine:
        """Return the machine, running or ended; FAILED_PRECONDITION when there was none."""
        if self._machine is None:
            raise KataError(f"use sandbox {self.id}: it was not started", Code.FAILED_PRECONDITION)
        return self._machine

    def defer(self, name: str, step: Callable[[], None]) -> None:
        """Have something given back at the sandbox's end, before what it has itself; or now."""
        with self._stop_lock:
            if not self._stopped:
                self._undo.push(name, step)
                return
        step()

    def boot(self, own_pid: int, owner: str) -> None:
        """Start the machine; the guest goes on booting when this returns.

        ``owner`` is what others must show to clean up after us (see RecordFile).  After a failure
        the caller calls ``stop``.
        """
        started = time.monotonic()
        if is_orphaned(self.id):
            self._log.warning("leftovers of a killed shim removed", failures=clean_up(self.id))
        shim = ProcessEntry("shim", own_pid, read_start_time(own_pid) or 0)
        self._record.create(owner, shim)
        self._undo.push("state folder", self._record.remove)
        self.trace.keep_in(self._record.folder)
        accelerator = choose_accelerator(self.config.hypervisor.accel, ROOT)
        if accelerator.reason:
            self._log.warning("no KVM, the machine is emulated", reason=accelerator.reason)
        cid = vsock.choose_cid() if self._wants_vsock() else None
        with self.trace.step("connect network"):
            network = self._connect_network()
        free_mib = find_free_mib(plan.find_memory_folder(self.config))
        size = plan_size(self.config.hypervisor, self.pod.limits, free_mib)
        check_spares(self.config.factory.vm_cache_number, size.memory_mib + OVERHEAD_MIB)
        spec = plan.plan_vm(self.id, self.config, size, accelerator.name, cid)
        self._spec = replace(spec, netns_path=self.pod.netns_path if network else "")
        self._undo.push("shared folder", self._remove_share)
        self._undo.push("disks", self.disks.close)
        spawner = self._enter_cgroup(size)
        context = MachineContext(self.config, self._log, spawner, self._record, self.trace)
        with self.trace.step("start machine"):
            if not self._use_spare(context):
                layout.prepare_shared_folder(self._shared)
                launch_machine(context, self._spec, self._shared, self._take_machine)
        machine = self.machine
        if network is not None:
            with self.trace.step("plug network"):
                network.plug(machine.hypervisor)
        if self._aborted:
            raise KataError(f"start sandbox {self.id}: it is not wanted any more", Code.ABORTED)
        self._log.info(
            "machine started",
            ms=_since(started),
            pid=machine.pid(),
            copy=machine.is_copy,
            warm=machine.is_warm,
        )

    def help_next(self, view: HostView, hint: str) -> None:
        """Let the next sandbox with this hint start faster: as a copy, or with a machine that runs.

        ``view`` is where the engine's mounts are; a factory that starts belongs there.
        """
        machine = self.machine

        def tell() -> None:
            try:
                view.run(
                    lambda: tell_factory(
                        self.config,
                        self._spec,
                        hint,
                        is_copy=machine.is_copy,
                        missed=self._had_spare and not machine.is_warm,
                    )
                )
            except KataError as error:
                self._log.info("no factory", reason=describe_error(error))

        threading.Thread(target=tell, name="factory", daemon=True).start()

    def wait_ready(self) -> None:
        """Return when the guest is set up for containers; raise the cause when it cannot be."""
        started = time.monotonic()
        machine = self.machine
        with self.trace.step("wait for agent"):
            machine.wait_agent(self._spec)
        self._log.info("agent answers", ms=_since(started))
        request = agent_pb2.CreateSandboxRequest(
            sandbox_id=self.id, hostname=self.pod.hostname[:64]
        )
        request.kernel_modules.extend(
            _kernel_module(entry) for entry in self.config.agent.kernel_modules
        )
        request.storages.append(plan.plan_share_storage())
        with self.trace.step("set up guest"):
            self.call("set up guest", lambda: machine.agent.create_sandbox(request))
            if sysctls := dict(map(parse_setting, self.config.agent.sysctls)):
                self.call("set kernel settings", lambda: machine.agent.set_sysctls(sysctls))
        if self._network is not None:
            configured = time.monotonic()
            network = self._network
            with self.trace.step("configure network"):
                self.call("configure network", lambda: network.configure(machine.agent))
            network.follow(machine.hypervisor, machine.agent)
            self._forward_ports(machine.agent)
            self._log.info("network configured", ms=_since(configured))
        keeper = ClockKeeper(machine.agent, self._log)
        self._undo.push("clock", keeper.close)
        self._log.info("sandbox ready", ms=_since(started))

    def call(self, action: str, request: Callable[[], object]) -> None:
        """Run a request to the agent; a dead machine is told as the cause of its failure."""
        try:
            request()
        except KataError as error:
            if error.code != Code.UNAVAILABLE:
                raise
            self.machine.fail(action, error)

    def call_when_lost(self, on_lost: Callable[[str], None]) -> None:
        """Call ``on_lost`` with the cause when the machine dies unexpectedly, or now if it has."""
        self.machine.call_when_lost(on_lost)

    def wait_cause(self) -> None:
        """Return when the cause of a lost connection has been found, or there is none."""
        self.machine.find_cause()

    def abort(self) -> None:
        """End a machine that is being started; its starter gets an error and stops the sandbox."""
        self._aborted = True
        if self._machine is not None:
            self._machine.kill()

    @property
    def hypervisor(self) -> Hypervisor:
        """Return the machine's driver; UNAVAILABLE when the machine is gone."""
        if self._stopped:
            raise KataError(f"use sandbox {self.id}: its machine has ended", Code.UNAVAILABLE)
        return self.machine.hypervisor

    @property
    def mounts_folder(self) -> str:
        """Return the folder whose content the guest sees."""
        return self._shared.mounts

    @property
    def rules(self) -> plan.GuestRules:
        """Return what every container's spec has to follow."""
        return plan.GuestRules(
            seccomp=not self.config.runtime.disable_guest_seccomp, sysctls=self.pod.sysctls
        )

    def pid(self) -> int:
        """Return the pid that stands for the guest's processes."""
        return self._machine.pid() if self._machine else 0

    def create_container(
        self, container: Container, planned: plan.ContainerPlan, pids_of: str = ""
    ) -> None:
        """Create a prepared container in the guest (see Container.create)."""
        started = time.monotonic()
        try:
            disks = self.disks.plug(container.id, planned.disks)
            with self.trace.step(f"create {container.id[:SHOWN]}"):
                self.call(
                    "create container",
                    lambda: container.create(self.agent, planned, disks, pids_of),
                )
        except BaseException:
            self.release_disks(container.id)
            raise
        self._log.info("container created", container=container.id, ms=_since(started))

    def follow_volumes(self, planned: plan.ContainerPlan, view: HostView) -> None:
        """Bring a container's watched volumes into the guest, and their changes from now on."""
        self._volumes.follow(planned.mounts.watched, view)

    def _send_volume(self, name: str, entries: Sequence[VolumeEntry]) -> None:
        self.call("update volume", lambda: self.agent.sync_volume(name, entries))

    def release_disks(self, container_id: str) -> None:
        """Take the disks of a container out again, after the container itself is gone."""
        if not self._stopped:
            self.disks.release(container_id)

    def stop(self, *, graceful: bool) -> None:
        """End the machine and give everything back.  May be called twice; the second waits."""
        with self._stop_lock:
            if self._stopped:
                return
            started = time.monotonic()
            if self._machine is not None:
                self._machine.expect_end()
                if graceful:
                    self._power_off(self._machine)
            self._stopped = True
            if self._spare is not None:
                self._spare.close()
            for failure in self._undo.run():
                self._log.error("clean-up failed", step=failure)
            self._log.info("sandbox stopped", ms=_since(started))

    def _enter_cgroup(self, size: Size) -> Spawner:
        """Return what starts the sandbox's processes in its cgroup, as far as they may be there."""
        whole = self.config.runtime.sandbox_cgroup_only
        planned = cgroup.plan_cgroup(
            self.pod.cgroup_path,
            cgroups.find_hierarchies(list_mounts()),
            (size.memory_mib + OVERHEAD_MIB) << 20,
            whole=whole,
        )
        if planned.left_out:
            self._log.warning(
                "machine not counted as the pod's memory",
                reason=planned.left_out,
                hint="name an overhead in the RuntimeClass",
            )
        try:
            made = cgroups.make_folders(planned.folders)
        except KataError as error:
            if whole:
                raise
            self._log.warning("machine not in the pod's cgroup", reason=describe_error(error))
            return self._spawner
        self._record.add_cgroups(made)
        self._undo.push("cgroup", lambda: cgroups.remove_folders(made))
        return cgroup.CgroupSpawner(self._spawner, planned)

    def _use_spare(self, context: MachineContext) -> bool:
        """Return whether a machine that was waiting is this sandbox's now."""
        spare, self._spare = self._spare, None
        if spare is None:
            return False
        if not spare.fits(self.config, self._spec):
            self._log.info("warm machine not used", reason="it is of another kind")
            spare.close_aside()
            return False
        try:
            machine = spare.give(context, self.id)
        except KataError as error:
            self._log.warning("warm machine not used", reason=describe_error(error))
            spare.close()
            return False
        self._take_machine(machine)
        return True

    def _take_machine(self, machine: Machine) -> None:
        self._undo.push("machine", machine.close)
        self._machine = machine
        if self._aborted:
            raise KataError(f"start sandbox {self.id}: it is not wanted any more", Code.ABORTED)

    def _connect_network(self) -> SandboxNetwork | None:
        runtime, hypervisor = self.config.runtime, self.config.hypervisor
        if not self.pod.netns_path or runtime.internetworking_model == "none":
            return None
        settings = NetworkSettings(
            runtime.internetworking_model,
            hypervisor.rx_rate_limiter_max_rate,
            hypervisor.tx_rate_limiter_max_rate,
        )
        self._network = SandboxNetwork(self.pod.netns_path, settings, self._log)
        self._undo.push("network", self._network.close)
        self._network.connect()
        return self._network

    def _forward_ports(self, agent: Agent) -> None:
        try:
            forward = PortForward(self.pod.netns_path, agent, self._log)
        except KataError as error:
            self._log.warning("ports cannot be forwarded", reason=describe_error(error))
            return
        self._undo.push("port forwarding", forward.close)

    def _power_off(self, machine: Machine) -> None:
        try:
            machine.agent.destroy_sandbox(_POWER_OFF_S)
        except (KataError, AttributeError) as error:
            self._log.info("machine killed without power-off", error=describe_error(error))
            machine.kill()  # now: what is given back first may wait for its guest

    def _wants_vsock(self) -> bool:
        wanted = self.config.hypervisor.use_vsock
        if wanted == "auto":
            # Copies of a template are reached by the port that the original had.
            return vsock.is_available() and not self.config.factory.enable_template
        return bool(wanted == "true")

    def _remove_share(self) -> None:
        layout.unmount_below(self._shared.base)
        layout.remove_skeleton(self._shared.base)


def _kernel_module(entry: str) -> agent_pb2.KernelModule:
    name, *parameters = entry.split()
    return agent_pb2.KernelModule(name=name, parameters=parameters)


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)
