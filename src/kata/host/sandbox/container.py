"""A container of a sandbox: its place in the shared folder, its process, its execs."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kata.base import kernelfs
from kata.base.errors import Code, KataError, describe_error
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.following import FollowedMounts
from kata.host.sandbox.mounts import GuestStorage, SharedMount
from kata.host.sandbox.plan import ContainerPlan, strip_labels
from kata.host.sandbox.process import Process, ProcessIo
from kata.host.sandbox.rootfs import RootfsMount, mount_rootfs
from kata.host.sandbox.states import State
from kata.host.sandbox.trees import clone_own_tree, clone_tree
from kata.host.sandbox.undo import UndoStack
from kata.host.share import layout
from kata.host.share.idmap import map_owners
from kata.oci.annotations import is_cri_o
from kata.oci.bundle import annotations_of
from kata.oci.convert import convert_process, convert_resources, convert_spec
from kata.rpc.pb import agent_pb2, types_pb2


@dataclass(frozen=True, slots=True)
class ContainerRequest:
    """What to create: the bundle, its spec, and the mounts that make its root file system."""

    id: str
    bundle: str
    spec: dict[str, Any]
    rootfs: tuple[RootfsMount, ...]


class Container:
    """One container.  Its owner holds the sandbox; calls for different containers never wait."""

    def __init__(self, request: ContainerRequest, io: ProcessIo, log: Logger) -> None:
        self.id = request.id
        self.bundle = request.bundle
        self._request = request
        self._log = log
        self._undo = UndoStack()
        self._lock = threading.Lock()
        self._execs: dict[str, Process] = {}
        self._exec_specs: dict[str, dict[str, Any]] = {}
        self.process = Process(request.id, "", io, log)
        # Whether its processes are only its own.
        self.has_own_pids = True

    def prepare(self, plan: ContainerPlan, mounts_folder: str, view: HostView) -> None:
        """Make the container's files visible in the shared folder."""
        self.has_own_pids = not plan.shared_pids
        scratch = os.path.dirname(mounts_folder)
        rootfs = _mount_rootfs(self._request, self._undo, view, scratch)
        target = f"{mounts_folder}/{plan.share_name}/rootfs"
        self._undo.push("shared files", lambda: _remove_shared(mounts_folder, plan))
        _attach(rootfs, target)
        followed = FollowedMounts(scratch, self._log)
        self._undo.push("followed mounts", followed.close)
        for mount in plan.mounts.shared:
            target = f"{mounts_folder}/{mount.name}"
            try:
                if mount.follows:
                    tree = followed.clone(view, mount, target)
                else:
                    tree = clone_tree(view, mount.source, scratch, recursive=mount.recursive)
            except OSError as error:
                raise _describe_missing(mount.source, error) from error
            _attach(tree, target, mount)
        followed.start()

    def create(
        self, agent: Agent, plan: ContainerPlan, disks: Mapping[str, str], pids_of: str = ""
    ) -> None:
        """Create the container in the guest.

        ``disks`` are PCI paths of plugged disks by their plans' paths; ``pids_of`` is the
        container whose processes this one shares, instead of the pod's.
        """
        request = agent_pb2.CreateContainerRequest(
            container_id=self.id, sandbox_pidns=plan.shared_pids and not pids_of
        )
        for storage in plan.mounts.storages:
            request.storages.append(_render_storage(storage, disks))
        for disk in plan.disks:
            if not disk.volume:
                pci_path = disks[disk.container_path]
                request.devices.add(id=pci_path, type="blk", container_path=disk.container_path)
        if plan.privileged:  # after the disks, which belong to the machine then
            request.devices.add(type="guest", container_path="/dev")
        request.OCI.CopyFrom(convert_spec(plan.spec))
        for namespace in request.OCI.Linux.Namespaces:
            if namespace.Type == "pid" and pids_of:
                namespace.Path = f"container:{pids_of}"
        request.OCI.Process.Terminal = self.process.io.terminal
        agent.create_container(request)

    def start(self, agent: Agent) -> None:
        """Run the container's process."""
        self.process.start(agent, lambda: agent.start_container(self.id))

    def signal(self, agent: Agent, exec_id: str, signum: int) -> None:
        """Send a signal to the container's process or to an exec."""
        process = self.get_process(exec_id)
        alive = {State.RUNNING, State.PAUSED} | (set() if exec_id else {State.CREATED})
        process.require("kill", *alive)
        agent.signal_process(self.id, exec_id, signum)

    def signal_all(self, agent: Agent, signum: int) -> None:
        """Send a signal to all of the container's processes."""
        if signum == signal.SIGKILL:  # which is for all of them anyway
            self.signal(agent, "", signum)
            return
        self.process.require("kill", State.CREATED, State.RUNNING, State.PAUSED)
        agent.signal_all(self.id, signum)

    def stats(self, agent: Agent) -> agent_pb2.StatsContainerResponse:
        """Return the container's use of resources."""
        self.process.require("stats of", State.CREATED, State.RUNNING, State.PAUSED)
        return agent.stats_container(self.id)

    def remove(self, agent: Agent) -> None:
        """Remove the container in the guest, with everything that still runs in it."""
        agent.remove_container(self.id)

    def add_exec(self, exec_id: str, spec: dict[str, Any], io: ProcessIo) -> Process:
        """Register another process; ALREADY_EXISTS when the id is taken."""
        self.process.require("exec in", State.RUNNING, State.PAUSED)
        process = Process(self.id, exec_id, io, self._log)
        with self._lock:
            if exec_id in self._execs:
                raise KataError(f"exec {exec_id}: it exists already", Code.ALREADY_EXISTS)
            self._execs[exec_id] = process
            self._exec_specs[exec_id] = spec
        return process

    def start_exec(self, agent: Agent, process: Process) -> None:
        """Run a registered process."""
        self.process.require("exec in", State.RUNNING)
        with self._lock:
            spec = self._exec_specs.get(process.exec_id, {})
        strip_labels(spec)
        message = convert_process(spec)
        message.Terminal = process.io.terminal

        def run() -> None:
            process.io.open()
            agent.exec_process(self.id, process.exec_id, message)

        process.start(agent, run)

    def get_process(self, exec_id: str) -> Process:
        """Return a process by its exec id (empty: the container's own); NOT_FOUND without."""
        if not exec_id:
            return self.process
        with self._lock:
            process = self._execs.get(exec_id)
        if process is None:
            raise KataError(f"find exec {exec_id}: no such process", Code.NOT_FOUND)
        return process

    def list_processes(self) -> list[Process]:
        """Return the container's own process and its execs."""
        with self._lock:
            return [self.process, *self._execs.values()]

    def drop_exec(self, exec_id: str) -> None:
        """Forget an exec."""
        with self._lock:
            self._execs.pop(exec_id, None)
            self._exec_specs.pop(exec_id, None)

    def pause(self, agent: Agent) -> None:
        """Freeze the container."""
        self.process.require("pause", State.RUNNING)
        agent.pause_container(self.id)
        self.process.set_state("pause", State.PAUSED)

    def resume(self, agent: Agent) -> None:
        """Let it go on."""
        self.process.require("resume", State.PAUSED)
        agent.resume_container(self.id)
        self.process.set_state("resume", State.RUNNING)

    def update(self, agent: Agent, resources: dict[str, Any]) -> None:
        """Change limits; ``resources`` is the OCI object."""
        self.process.require("update", State.CREATED, State.RUNNING, State.PAUSED)
        agent.update_container(self.id, convert_resources(resources))

    def note_oom(self) -> None:
        """Tell CRI-O, which gets no events, that the container had no memory left: by a file."""
        if is_cri_o(annotations_of(self._request.spec)):
            try:
                open(os.path.join(self.bundle, "oom"), "w").close()
            except OSError as error:
                self._log.warning("no oom file", container=self.id, error=describe_error(error))

    def release(self) -> list[str]:
        """Give back what the container holds on the host; returns the failures."""
        for process in self.list_processes():
            process.io.close()
        return self._undo.run()


def _render_storage(storage: GuestStorage, disks: Mapping[str, str]) -> agent_pb2.Storage:
    message = agent_pb2.Storage(
        driver=storage.driver,
        source=disks.get(storage.mount_point, storage.source),
        fstype=storage.fstype,
        options=storage.options,
        mount_point=storage.mount_point,
    )
    if storage.fs_group >= 0:
        message.fs_group.group_id = storage.fs_group
        if storage.on_root_mismatch:
            message.fs_group.group_change_policy = types_pb2.OnRootMismatch
    return message


def _describe_missing(source: str, error: OSError) -> KataError:
    return KataError(f"share {source}: {os.strerror(error.errno or 0)}", Code.NOT_FOUND)


def _attach(tree_fd: int, target: str, mount: SharedMount | None = None) -> None:
    try:
        if mount is None:
            layout.bind_into_share(tree_fd, target, read_only=False)
            return
        map_owners(tree_fd, mount.owners, mount.source)
        layout.bind_into_share(
            tree_fd, target, read_only=mount.read_only, recursive=mount.read_only_below
        )
    finally:
        os.close(tree_fd)


def _mount_rootfs(request: ContainerRequest, undo: UndoStack, view: HostView, scratch: str) -> int:
    """Mount the root file system where the engine expects it; returns a copy of the mount."""
    if not request.rootfs:
        path = os.path.join(request.bundle, request.spec["root"]["path"])
        if not view.run(lambda: os.path.isdir(path)):
            raise KataError(f"open rootfs {path}: no such folder", Code.NOT_FOUND)
        kernel = view.run(lambda: kernelfs.find_type(path))
        if kernel:
            raise KataError(
                f"open rootfs {path}: it is on the host's {kernel}", Code.INVALID_ARGUMENT
            )
        try:
            return clone_tree(view, path, scratch, recursive=True)
        except OSError as error:
            raise _describe_missing(path, error) from error
    target = os.path.join(request.bundle, "rootfs")
    os.makedirs(target, mode=0o711, exist_ok=True)
    undo.push("rootfs", lambda: layout.unmount_below(target))
    mount_rootfs(target, request.rootfs, os.path.join(request.bundle, "layers"))
    return clone_own_tree(target, scratch)


def _remove_shared(mounts_folder: str, plan: ContainerPlan) -> None:
    for name in [mount.name for mount in plan.mounts.shared] + [plan.share_name]:
        path = f"{mounts_folder}/{name}"
        layout.unmount_below(path)
        if os.path.isdir(path):
            layout.remove_skeleton(path)
        elif os.path.exists(path):
            os.unlink(path)
