"""containerd's tasks over one sandbox: creates, starts, follows and deletes them, and tells events.

The service decodes requests and calls this; what happens in the machine is the sandbox's.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from kata.base.errors import Code, KataError, describe_error
from kata.base.ids import check_id
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.base.trace import SHOWN
from kata.host.sandbox.container import Container
from kata.host.sandbox.pause import PauseContainer
from kata.host.sandbox.process import EXIT_LOST, Process
from kata.host.sandbox.sandbox import Sandbox
from kata.host.sandbox.spare import Spare
from kata.host.sandbox.states import State
from kata.host.shim import events
from kata.host.shim.creations import Creations
from kata.host.shim.creator import Callbacks, Creator, ShimIdentity, TaskRequest
from kata.host.shim.management import Management
from kata.host.shim.oom import follow_oom
from kata.host.shim.standin import Controls
from kata.host.shim.stdio import StdioSpec, TaskIo
from kata.oci.annotations import ContainerKind, find_placement
from kata.oci.bundle import annotations_of, load_spec
from kata.rpc.durations import Durations
from kata.rpc.pb import agent_pb2, events_pb2

# Exit status of a task that was deleted before it was started: as if killed.
_KILLED = 137
# An event waits this long for the one that has to come before it.
_TELL_S = 2.0


class Tasks:
    """All tasks of one shim."""

    def __init__(
        self,
        identity: ShimIdentity,
        publisher: events.Publisher,
        spawner: Spawner,
        log: Logger,
        spare: Spare | None = None,
    ) -> None:
        """``spare`` is a machine that runs already, to be used or ended."""
        self._namespace = identity.namespace
        self._creator = Creator(
            identity, spawner, log, Callbacks(self._on_exit, self._make_io), spare
        )
        self._publisher = publisher
        self._spawner = spawner
        self._log = log
        self._lock = threading.Condition()
        self._creations = Creations(self._lock)
        self._containers: dict[str, Container] = {}
        self._sandbox: Sandbox | None = None
        self._machine_owner = ""
        # How long the engine's calls take.
        self.durations = Durations()

    def create(self, request: TaskRequest) -> int:
        """Create a task, with its machine if it is the first; returns its pid."""
        check_id("container", request.id)
        spec = load_spec(request.bundle)
        placement = find_placement(request.id, annotations_of(spec))
        with self._lock:
            if request.id in self._containers:
                raise KataError(f"create {request.id}: it exists already", Code.ALREADY_EXISTS)
            self._creations.begin(request.id)
        try:
            if placement.kind is ContainerKind.CONTAINER:
                sandbox = self._get_pod(request.id, placement.sandbox_id)
                others = self._list_containers()
                container = self._creator.create_in_pod(request, spec, sandbox, others)
            else:
                container = self._create_sandbox(request, spec, placement.kind)
            self._register(container)
        except BaseException as error:
            self._log.error("create failed", container=request.id, error=describe_error(error))
            raise
        finally:
            self._creations.end(request.id)
        self._publisher.publish(events.render_create(request, self.pid()))
        sandbox = self._get_sandbox()
        agent = sandbox.machine.agent  # also of one that has just ended, which is told by following
        if placement.kind is not ContainerKind.SANDBOX:
            container.process.follow(agent, self._on_exit)
        if placement.kind is not ContainerKind.CONTAINER:
            follow_oom(agent, self._find_container, self._publisher, self._log)
            sandbox.call_when_lost(self._on_machine_lost)
            Management(sandbox, self._list_containers, self._log).serve(self.durations)
        return self.pid()

    def start(self, container_id: str, exec_id: str) -> int:
        """Start a task or an exec."""
        container = self.get_container(container_id)
        sandbox = self._get_sandbox()
        process = container.get_process(exec_id)
        if not exec_id:
            with sandbox.trace.step(f"start {container_id[:SHOWN]}"):
                sandbox.call("start container", lambda: container.start(sandbox.agent))
            self._publisher.publish(events_pb2.TaskStart(container_id=container_id, pid=self.pid()))
            process.start_told.set()
        else:
            try:
                sandbox.call("start exec", lambda: container.start_exec(sandbox.agent, process))
            except BaseException:
                if process.io.has_stand_in:
                    container.drop_exec(exec_id)  # nobody else does
                raise
            self._publisher.publish(
                events_pb2.TaskExecStarted(
                    container_id=container_id, exec_id=exec_id, pid=self.pid()
                )
            )
            process.start_told.set()
            if process.initial_size is not None:
                self._resize_early(process, *process.initial_size)
            process.follow(sandbox.machine.agent, self._on_exit)
        return self.pid()

    def exec(self, container_id: str, exec_id: str, spec: dict[str, Any], stdio: StdioSpec) -> None:
        """Register a process to be started in a running task."""
        check_id("exec", exec_id)
        container = self.get_container(container_id)
        io = self._make_io(container_id, stdio, exec_id)
        try:
            container.add_exec(exec_id, spec, io)
        except BaseException:
            io.close()
            raise
        self._publisher.publish(
            events_pb2.TaskExecAdded(container_id=container_id, exec_id=exec_id)
        )

    def delete(self, container_id: str, exec_id: str) -> Process:
        """Forget a task or exec that has ended (or never started); returns its process."""
        self._creations.give_up(container_id)
        container = self.get_container(container_id)
        process = container.get_process(exec_id)
        if exec_id:
            process.require_deletable()
            process.drain()
            process.io.close()
            container.drop_exec(exec_id)
            return process
        process.require_deletable()
        if not process.finish(_KILLED):
            process.exit_told.wait(_TELL_S)
        if self._owns_machine(container):
            self._end_sandbox()
            self._release(container)
        else:
            self._remove_from_pod(container)
        with self._lock:
            if self._containers.get(container_id) is not container:
                return process  # another call was faster, and has told it
            del self._containers[container_id]
        self._publisher.publish(events.render_delete(process, self.pid()))
        return process

    def kill(self, container_id: str, exec_id: str, signum: int, *, everyone: bool = False) -> None:
        """Send a signal to a task or exec, or to every process of a task."""
        container = self.get_container(container_id)
        alive = {State.RUNNING, State.PAUSED} | (set() if exec_id else {State.CREATED})
        process = container.get_process(exec_id)
        process.require("kill", *alive)
        if exec_id:
            process.wait_begun()
        try:
            if everyone and not exec_id:
                container.signal_all(self._get_sandbox().agent, signum)
            else:
                container.signal(self._get_sandbox().agent, exec_id, signum)
        except KataError as error:
            hangs = error.code == Code.DEADLINE_EXCEEDED and signum == signal.SIGKILL
            if not hangs or exec_id or not self._owns_machine(container):
                raise
            self._log.error("machine killed", reason=f"its guest hangs: {error}")
            process.lost_status = _KILLED
            self._get_sandbox().machine.kill()

    def pause(self, container_id: str) -> None:
        """Freeze a task."""
        self.get_container(container_id).pause(self._get_sandbox().agent)
        self._publisher.publish(events_pb2.TaskPaused(container_id=container_id))

    def resume(self, container_id: str) -> None:
        """Let a frozen task go on."""
        self.get_container(container_id).resume(self._get_sandbox().agent)
        self._publisher.publish(events_pb2.TaskResumed(container_id=container_id))

    def resize(self, container_id: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of a terminal."""
        process = self.get_container(container_id).get_process(exec_id)
        process.require("resize terminal of", State.CREATED, State.RUNNING, State.PAUSED)
        if process.state is State.CREATED and exec_id:
            process.initial_size = (width, height)
            return
        if exec_id:
            process.wait_begun()
        self._get_sandbox().agent.resize_terminal(container_id, exec_id, width, height)

    def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Change a task's limits."""
        self.get_container(container_id).update(self._get_sandbox().agent, resources)

    def stats(self, container_id: str) -> agent_pb2.StatsContainerResponse:
        """Return a task's use of resources."""
        container = self.get_container(container_id)
        container.process.require("stats of", State.CREATED, State.RUNNING, State.PAUSED)
        return container.stats(self._get_sandbox().agent)

    def get_container(self, container_id: str) -> Container:
        """Return a created container; NOT_FOUND without.  An empty id means the guest itself."""
        if not container_id:
            return self._creator.get_console(self._get_sandbox())
        container = self._find_container(container_id)
        if container is None:
            raise KataError(f"find task {container_id!r}: no such task", Code.NOT_FOUND)
        return container

    def pid(self) -> int:
        """Return the pid that stands for the guest's processes: QEMU's."""
        return self._sandbox.pid() if self._sandbox else 0

    def is_empty(self) -> bool:
        """Return whether no task is left, nor one being created."""
        with self._lock:
            return not self._containers and not self._creations

    def stop(self) -> None:
        """End the machine, whatever runs in it."""
        self._creations.give_up_all()
        if self._sandbox is not None:
            self._sandbox.stop(graceful=False)
        self._creator.close()

    def _list_containers(self) -> list[Container]:
        """Return those that run something: a pod's sandbox does not."""
        with self._lock:
            known = list(self._containers.values())
        return [container for container in known if not isinstance(container, PauseContainer)]

    def _make_io(self, container_id: str, stdio: StdioSpec, exec_id: str = "") -> TaskIo:
        controls = Controls(
            signal=lambda signum: self.kill(container_id, exec_id, signum),
            resize=lambda width, height: self.resize(container_id, exec_id, width, height),
            gone=lambda: self._kill_orphan(container_id, exec_id),
        )
        owner = (self._namespace, container_id)
        return TaskIo(stdio, owner, self._spawner, self._log, controls)

    def _kill_orphan(self, container_id: str, exec_id: str) -> None:
        """End what lost the process of the host that stood for it; or its creation."""
        self._log.info("stand-in killed", container=container_id, exec=exec_id)
        try:
            self._creations.give_up(container_id)
            self.kill(container_id, exec_id, signal.SIGKILL)
        except KataError as error:
            self._log.debug("nothing to end", container=container_id, error=describe_error(error))

    def _find_container(self, container_id: str) -> Container | None:
        with self._lock:
            return self._containers.get(container_id)

    def _register(self, container: Container) -> None:
        """Have a container that was created known, or take it back when nobody wants it any more.

        Raises CANCELLED then.
        """
        try:
            with self._lock:
                self._creations.require_wanted(container.id)
                self._containers[container.id] = container
        except KataError:
            if self._owns_machine(container):
                self._get_sandbox().stop(graceful=False)
                self._release(container)
            else:
                self._remove_from_pod(container)
            raise

    def _create_sandbox(
        self, request: TaskRequest, spec: dict[str, Any], kind: ContainerKind
    ) -> Container:
        sandbox = self._creator.make_sandbox(request, spec)
        self._creations.note_sandbox(request.id, sandbox)
        container = self._creator.create_with_machine(request, spec, kind, sandbox)
        with self._lock:
            self._sandbox = sandbox
            self._machine_owner = request.id
        return container

    def _get_pod(self, container_id: str, sandbox_id: str) -> Sandbox:
        sandbox = self._get_sandbox()
        if sandbox.id != sandbox_id:
            raise KataError(
                f"create {container_id}: it belongs to sandbox {sandbox_id}, this is {sandbox.id}",
                Code.INVALID_ARGUMENT,
            )
        return sandbox

    def _owns_machine(self, container: Container) -> bool:
        """Return whether the machine ends with this container: a lone one, or the pod's sandbox."""
        return container.id == self._machine_owner

    def _remove_from_pod(self, container: Container) -> None:
        sandbox = self._get_sandbox()
        try:
            container.remove(sandbox.agent)
        except KataError as error:
            # A dead machine took the container with it; in a live one it must not be lost sight of.
            if error.code not in (Code.UNAVAILABLE, Code.NOT_FOUND):
                raise
        sandbox.release_disks(container.id)
        self._release(container)

    def _release(self, container: Container) -> None:
        for failure in container.release():
            self._log.error("clean-up failed", container=container.id, step=failure)

    def _resize_early(self, process: Process, width: int, height: int) -> None:
        """Set the size that was asked for before the start; a process may have ended already."""
        try:
            self.resize(process.container_id, process.exec_id, width, height)
        except KataError as error:
            self._log.debug("terminal not resized", error=describe_error(error))

    def _on_exit(self, process: Process) -> None:
        self._log.info(
            "process ended",
            container=process.container_id,
            exec=process.exec_id,
            status=process.exit_status,
        )
        # containerd's rule: the start is told before the end, and execs end before their container.
        process.start_told.wait(_TELL_S)
        if not process.exec_id:
            self._wait_execs(process.container_id)
        self._publisher.publish(events.render_exit(process, self.pid()))
        process.exit_told.set()
        if process.io.has_stand_in:
            process.io.close()  # also where it was never started, and nothing was copied
            container = self._find_container(process.container_id)
            if process.exec_id and container:
                container.drop_exec(process.exec_id)
        if not process.exec_id:
            if process.lost:
                self._get_sandbox().wait_cause()  # which is told before the end is taken as wanted
            if process.container_id == self._machine_owner:
                self._end_sandbox()

    def _wait_execs(self, container_id: str) -> None:
        container = self._find_container(container_id)
        for other in container.list_processes()[1:] if container else ():
            if other.start_told.is_set() and other.state is not State.CREATED:
                other.exit_told.wait(_TELL_S)

    def _end_sandbox(self) -> None:
        with self._lock:
            containers = list(self._containers.values())
        for container in containers:
            for process in container.list_processes():
                if process.state is State.STOPPED:  # what still runs has no end to wait for
                    process.drain()
        self._get_sandbox().stop(graceful=True)

    def _on_machine_lost(self, cause: str) -> None:
        self._log.error("virtual machine lost", cause=cause)
        with self._lock:
            owner = self._containers.get(self._machine_owner)
        if isinstance(owner, PauseContainer):
            owner.end(EXIT_LOST)
        self._get_sandbox().stop(graceful=False)

    def _get_sandbox(self) -> Sandbox:
        if self._sandbox is None:
            raise KataError("use sandbox: there is none", Code.FAILED_PRECONDITION)
        return self._sandbox
