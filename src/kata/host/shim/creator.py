"""Create tasks: a lone container or a pod's sandbox with its machine, or a container of a pod.

What is created is the caller's to register and to end; what failed has left nothing behind.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kata.base.errors import Code, KataError
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.base.trace import SHOWN
from kata.config.annotations import apply_annotations
from kata.config.load import load_config
from kata.host.sandbox.console import Console
from kata.host.sandbox.container import Container, ContainerRequest
from kata.host.sandbox.hint import find_hint
from kata.host.sandbox.pause import PauseContainer
from kata.host.sandbox.plan import ContainerPlan, GuestRules, check_spec, plan_container
from kata.host.sandbox.pod import plan_pod
from kata.host.sandbox.process import Process
from kata.host.sandbox.rootfs import RootfsMount
from kata.host.sandbox.sandbox import Sandbox
from kata.host.sandbox.sources import probe_source
from kata.host.sandbox.spare import Spare
from kata.host.sandbox.states import State
from kata.host.shim.stdio import StdioSpec, TaskIo
from kata.oci.annotations import ContainerKind
from kata.oci.bundle import annotations_of


@dataclass(frozen=True, slots=True)
class TaskRequest:
    """A create request, decoded."""

    id: str
    bundle: str
    rootfs: tuple[RootfsMount, ...]
    stdio: StdioSpec
    config_path: str


@dataclass(frozen=True, slots=True)
class ShimIdentity:
    """Whose tasks these are.

    The engine's namespace, the socket that tells shims apart, and the engine's view of the host's
    mounts.
    """

    namespace: str
    socket_path: str
    view: HostView


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What the tasks' owner does for their creation.

    ``on_pod_exit`` is called when a pod's sandbox container has ended; ``make_io`` makes the
    streams of the container's own process.
    """

    on_pod_exit: Callable[[Process], None]
    make_io: Callable[[str, StdioSpec], TaskIo]


class Creator:
    """Makes sandboxes and containers for one shim."""

    def __init__(
        self,
        identity: ShimIdentity,
        spawner: Spawner,
        log: Logger,
        callbacks: Callbacks,
        spare: Spare | None,
    ) -> None:
        """``spare`` goes to the first sandbox."""
        self._identity = identity
        self._spawner = spawner
        self._log = log
        self._callbacks = callbacks
        self._spare = spare
        self._lock = threading.Lock()
        self._console: Console | None = None

    def make_sandbox(self, request: TaskRequest, spec: dict[str, Any]) -> Sandbox:
        """Check everything that can be known beforehand; nothing is started."""
        config = load_config(request.config_path or None, os.environ)
        config = apply_annotations(config, annotations_of(spec))
        self._log.debug_enabled |= config.runtime.enable_debug
        for warning in config.warnings:
            self._log.warning("configuration", reason=warning)
        check_spec(spec)
        pod = plan_pod(request.id, spec)
        spare, self._spare = self._spare, None
        return Sandbox(request.id, config, self._log, self._spawner, pod, spare)

    def close(self) -> None:
        """End the machine that no sandbox has come for."""
        if self._spare is not None:
            self._spare.close()

    def create_with_machine(
        self, request: TaskRequest, spec: dict[str, Any], kind: ContainerKind, sandbox: Sandbox
    ) -> Container:
        """Boot a sandbox's machine and create its first container, side by side."""
        io = self._callbacks.make_io(request.id, request.stdio)
        described = ContainerRequest(request.id, request.bundle, spec, request.rootfs)
        planned = None
        if kind is ContainerKind.SANDBOX:
            container: Container = PauseContainer(
                described, io, self._log, self._callbacks.on_pod_exit
            )
        else:
            container = Container(described, io, self._log)
        try:
            if kind is not ContainerKind.SANDBOX:
                planned = self._plan(request.id, spec, sandbox)
            io.open()
            sandbox.boot(os.getpid(), self._identity.socket_path)
            if planned is not None:
                self._prepare(container, planned, sandbox)
            sandbox.wait_ready()
            if planned is not None:
                sandbox.follow_volumes(planned, self._identity.view)
                sandbox.create_container(container, planned)
        except BaseException:
            sandbox.stop(graceful=False)
            self._release(container)
            raise
        hint = find_hint(request.id, self._identity.namespace, os.environ, spec)
        sandbox.help_next(self._identity.view, hint)
        return container

    def create_in_pod(
        self,
        request: TaskRequest,
        spec: dict[str, Any],
        sandbox: Sandbox,
        others: Sequence[Container],
    ) -> Container:
        """Create one more container in a pod's machine, where ``others`` are."""
        planned = self._plan(request.id, spec, sandbox)
        pids_of = find_target(request.id, others) if planned.shared_pids else ""
        io = self._callbacks.make_io(request.id, request.stdio)
        container = Container(
            ContainerRequest(request.id, request.bundle, spec, request.rootfs), io, self._log
        )
        try:
            io.open()
            self._prepare(container, planned, sandbox)
            sandbox.follow_volumes(planned, self._identity.view)
            sandbox.create_container(container, planned, pids_of)
        except BaseException:
            self._release(container)
            raise
        return container

    def get_console(self, sandbox: Sandbox) -> Container:
        """Return the guest itself.  Raises FAILED_PRECONDITION where nobody may run programs in it.

        ``sandbox`` is always the same, as a shim has one.
        """
        if not sandbox.config.agent.debug_console_enabled:
            raise KataError(
                f"exec in the guest of {sandbox.id}: the configuration did not allow it when the"
                " sandbox was started",
                Code.FAILED_PRECONDITION,
                "set debug_console_enabled = true in [agent.kata]",
            )
        with self._lock:
            if self._console is None:
                self._console = Console(self._log)
            return self._console

    def _prepare(self, container: Container, planned: ContainerPlan, sandbox: Sandbox) -> None:
        with sandbox.trace.step(f"mount files of {container.id[:SHOWN]}"):
            container.prepare(planned, sandbox.mounts_folder, self._identity.view)

    def _plan(self, container_id: str, spec: dict[str, Any], sandbox: Sandbox) -> ContainerPlan:
        planned = plan_container(
            container_id, spec, self._rules(sandbox), sandbox.share_names.take(container_id)
        )
        for warning in planned.warnings:
            self._log.warning("container spec", container=container_id, reason=warning)
        return planned

    def _rules(self, sandbox: Sandbox) -> GuestRules:
        view = self._identity.view
        return replace(sandbox.rules, probe=lambda path: view.run(lambda: probe_source(path)))

    def _release(self, container: Container) -> None:
        for failure in container.release():
            self._log.error("clean-up failed", container=container.id, step=failure)


def find_target(container_id: str, others: Sequence[Container]) -> str:
    """Return whose pid namespace a container joins: another's, or (empty) the one of the pod.

    Engines name the process, and all of a pod have one number on the host.  In a pod that shares
    its processes no container has its own, so one that has is meant (``kubectl debug --target``).
    """
    own = [
        other.id for other in others if other.has_own_pids and other.process.state is State.RUNNING
    ]
    if len(own) > 1:
        raise KataError(
            f"create {container_id}: it shall share another container's processes, and the pod has"
            f" {len(own)} with processes of their own: which one cannot be told",
            Code.INVALID_ARGUMENT,
            "share the processes of the pod (shareProcessNamespace)",
        )
    return own[0] if own else ""
