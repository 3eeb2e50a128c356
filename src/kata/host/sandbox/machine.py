"""A sandbox's virtual machine with its helpers: virtiofsd, the streams, the agent's connection.

Starts them side by side, tells why when one of them fails, and says when one dies.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from kata.base.descriptors import ENOUGH_FILES
from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.base.processes import (
    Child,
    Spawner,
    end_process,
    list_children,
    read_start_time,
)
from kata.base.trace import Trace
from kata.config.records import Config
from kata.host.hypervisor.interface import Hypervisor
from kata.host.hypervisor.qemu.driver import Qemu
from kata.host.hypervisor.spec import LentFds, VmSpec
from kata.host.sandbox import clock, vsock
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.guard import Guard
from kata.host.sandbox.observer import Observer
from kata.host.sandbox.record import RecordFile
from kata.host.sandbox.root_image import check_image
from kata.host.sandbox.undo import UndoStack
from kata.host.share.layout import SharedFolderPaths
from kata.host.share.virtiofsd import Flavour, Share, ShareSpec, start_share
from kata.host.template.memory import Copying, make_memory
from kata.host.template.store import Template
from kata.rpc.client import Client
from kata.rpc.durations import Durations
from kata.rpc.frame import Channel
from kata.rpc.pb import agent_pb2

# The guest's own words, each in a file of the state folder.
_KEPT_STREAMS = ("console", "agent")
# What a copy's random numbers are seeded with.
_SEED_BYTES = 64


@dataclass(frozen=True, slots=True)
class MachineContext:
    """What starting a machine needs besides its plan; all of it belongs to the sandbox."""

    config: Config
    log: Logger
    spawner: Spawner
    record: RecordFile
    trace: Trace = field(default_factory=Trace)


class Machine:
    """One running machine.  ``close`` ends all that belongs to it."""

    def __init__(self, context: MachineContext) -> None:
        self._context = context
        self._undo = UndoStack()
        self._observer = Observer()
        self._undo.push("observer", self._observer.close)
        self._hypervisor = Qemu(context.spawner)
        self._vm: Child | None = None
        self._share: Child | None = None
        self.is_copy = False
        self.is_warm = False
        self.vsock_cid: int | None = None
        self.durations = Durations()
        self._client: Client | None = None
        self._guard: Guard | None = None
        self.agent: Agent

    def boot(self, spec: VmSpec, shared: SharedFolderPaths) -> None:
        """Start virtiofsd and QEMU and return while the guest boots."""
        check_assets(spec)
        share_fd = self._start_share(shared)
        vsock_fd = -1
        try:
            if spec.vsock_cid is not None:
                vsock_fd = vsock.open_vhost(spec.vsock_cid)
                self.vsock_cid = spec.vsock_cid
            self._start_vm(spec, LentFds(share=share_fd, vsock=vsock_fd))
            self._start_guard()
        finally:
            os.close(share_fd)
            if vsock_fd >= 0:
                os.close(vsock_fd)

    def boot_original(self, spec: VmSpec, memory_fd: int) -> None:
        """Start a QEMU that is to be saved: without a shared folder, its memory in a file."""
        check_assets(spec)
        self._start_vm(replace(spec, share=None), LentFds(memory=memory_fd))
        self._start_guard()

    def restore(self, spec: VmSpec, shared: SharedFolderPaths, template: Template) -> None:
        """Start virtiofsd and a copy of a template; its guest runs when this returns."""
        check_assets(spec)
        memory_fd = make_memory(template.memory_bytes)
        # All side by side.
        copying = Copying(template.memory_fd, memory_fd)
        try:
            self._start_vm(replace(spec, share=None), LentFds(memory=memory_fd), restored=True)
            share_fd = self._start_share(shared)
            self._start_guard()
            try:
                with self._context.trace.step("wait for memory"):
                    copying.wait()
                with self._context.trace.step("restore state"):
                    self._hypervisor.restore(template.state)
                if spec.share is not None:
                    with self._context.trace.step("plug shared folder"):
                        self._hypervisor.plug_share(spec.share, share_fd)
            finally:
                os.close(share_fd)
        except KataError as error:
            self.fail("restore virtual machine", error)
        finally:
            copying.join()
            os.close(memory_fd)
        self.is_copy = True

    def warm(self, storages: Sequence[agent_pb2.Storage]) -> None:
        """Get the guest of a copy ready for whichever sandbox will come."""
        try:
            self.agent.warm(storages)
            self.agent.set_time(time.time_ns())  # once, so that the code of it is loaded
        except KataError as error:
            self.fail("warm virtual machine", error)
        self.is_warm = True

    def move(self, context: MachineContext) -> None:
        """Give a running machine to a sandbox, whose spawner's cgroup its processes enter.

        The threads of the machine's that call into the sandbox are started anew, by this one.
        """
        self._context = context
        self.durations.clear()  # what was before is not the sandbox's
        processes = {"qemu": self._vm, "virtiofsd": self._share}
        for role, child in processes.items():
            if child is not None:
                context.record.add_process(role, child.pid, child.start_time)
        for pid in self.processes():
            context.spawner.adopt(pid)
        for stream in _KEPT_STREAMS:
            self._observer.keep(stream, f"{context.record.folder}/{stream}.log")
        if self._guard is not None:
            self._guard.close()
        self._start_guard()

    def processes(self) -> list[int]:
        """Return the pids of everything that the machine consists of."""
        return [pid for family in self.families().values() for pid in family]

    def families(self) -> dict[str, list[int]]:
        """Return the pids of QEMU and of virtiofsd, each with its children."""
        children = {"qemu": self._vm, "virtiofsd": self._share}
        return {
            role: [child.pid, *list_children(child.pid)]
            for role, child in children.items()
            if child is not None
        }

    def close(self) -> None:
        """End everything.  May be called twice."""
        self.expect_end()
        if failures := self._undo.run():
            raise KataError(f"end virtual machine: {'; '.join(failures)}")

    def _start_guard(self) -> None:
        if self._vm is not None:
            self._guard = Guard(self._vm, self._share, self._observer)

    def _start_vm(self, spec: VmSpec, lent: LentFds, *, restored: bool = False) -> None:
        with self._context.trace.step("start QEMU"):
            streams = self._hypervisor.start(spec, lent, restored=restored)
        self._vm = self._hypervisor.child()
        self._context.record.add_process("qemu", self._vm.pid, self._vm.start_time)
        self._undo.push("qemu", self._hypervisor.stop)
        folder = self._context.record.folder
        self._observer.watch("qemu", streams.stderr_fd)
        for stream, fd in zip(
            _KEPT_STREAMS, (streams.console_fd, streams.agent_log_fd), strict=True
        ):
            self._observer.watch(stream, fd, f"{folder}/{stream}.log")
        if streams.agent_fd >= 0:
            self._connect(socket.socket(fileno=streams.agent_fd))

    def wait_agent(self, spec: VmSpec) -> None:
        """Return when the agent answers; raise the cause when it never will."""
        timeout_s = float(self._context.config.agent.dial_timeout_s)
        deadline = time.monotonic() + timeout_s
        try:
            if spec.vsock_cid is not None:
                self._connect(vsock.connect(spec.vsock_cid, deadline, self.is_alive))
            left_s = max(0.1, deadline - time.monotonic())
            if self.is_copy and not self.is_warm:
                seed = os.urandom(_SEED_BYTES)
                clock.set_first(self.agent, lambda now: self.agent.resume(seed, now, left_s))
            else:
                if not self.is_copy:
                    self.agent.check(left_s)
                clock.set_first(self.agent, self.agent.set_time)
            self._context.spawner.settle()
        except KataError as error:
            self.fail("start virtual machine", error)

    def fail(self, action: str, error: KataError) -> NoReturn:
        """Raise the error to show for a failed action: the cause, if the machine has died."""
        cause = self.find_cause()
        if cause:
            raise KataError(f"{action}: {cause}", Code.UNAVAILABLE) from error
        if error.code == Code.DEADLINE_EXCEEDED and action == "start virtual machine":
            throttled = self._context.spawner.find_throttling()
            raise KataError(
                f"{action}: the agent does not answer although the machine runs"
                f"{f'; {throttled}' if throttled else ''}"
                f"{_quoted('console', self._observer.tail('console'))}",
                Code.DEADLINE_EXCEEDED,
                "dial_timeout in [agent.kata] is the limit",
            ) from error
        raise error

    def find_cause(self) -> str:
        """Return why the machine died; empty when it lives.  Waits a moment for the news."""
        return self._guard.find_cause() if self._guard is not None else ""

    @property
    def hypervisor(self) -> Hypervisor:
        """Return the driver, for devices that are plugged in later."""
        return self._hypervisor

    def pid(self) -> int:
        """Return QEMU's pid, which stands for every process of the guest."""
        return self._vm.pid if self._vm else 0

    def call_when_lost(self, on_lost: Callable[[str], None]) -> None:
        """Call ``on_lost`` with the cause when the machine dies unexpectedly, or now if it has."""
        if self._guard is not None:
            self._guard.call_when_lost(on_lost)

    def expect_end(self) -> None:
        """Take the machine's end from now on for what was wanted."""
        if self._guard is not None:
            self._guard.expect_end()

    def kill(self) -> None:
        """End the machine at once; whoever waits for its agent gets an error."""
        if self._vm is not None:
            self._vm.kill()

    def _start_share(self, shared: SharedFolderPaths) -> int:
        hypervisor = self._context.config.hypervisor
        spec = ShareSpec(
            hypervisor.virtio_fs_daemon,
            shared.shared,
            hypervisor.virtio_fs_cache,
            tuple(hypervisor.virtio_fs_extra_args),
        )
        with self._context.trace.step("start virtiofsd"):
            share = start_share(
                spec, self._context.spawner, f"{self._context.record.folder}/virtiofsd.sock"
            )
        self._warn_of_limits(share)
        self._share = share.child
        self._context.record.add_process("virtiofsd", share.child.pid, share.child.start_time)
        self._undo.push("virtiofsd", lambda: _end_family(share.child))
        self._observer.watch("virtiofsd", share.stderr_fd)
        return share.machine_fd

    def _warn_of_limits(self, share: Share) -> None:
        if share.flavour is Flavour.C:
            self._context.log.warning(
                "virtiofsd of QEMU 7.2 misplaces what is appended to a mapped file, and more:"
                " docs/storage.md",
                path=self._context.config.hypervisor.virtio_fs_daemon,
            )
        if share.max_files < ENOUGH_FILES:
            self._context.log.warning(
                "large volumes can have more files than virtiofsd may open", limit=share.max_files
            )

    def _connect(self, sock: socket.socket) -> None:
        self._client = Client(Channel.from_socket(sock), durations=self.durations)
        self._undo.push("agent connection", self._client.close)
        create_timeout_s = float(self._context.config.runtime.create_container_timeout_s)
        self.agent = Agent(self._client, create_timeout_s)

    def is_alive(self) -> bool:
        """Return whether QEMU runs."""
        return self._vm is not None and self._vm.wait(0) is None


def check_assets(spec: VmSpec) -> None:
    """Raise for what would make the machine fail: missing files, too little memory."""
    root = ("image", spec.image) if spec.image else ("initrd", spec.initrd)
    for key, path in (("path", spec.binary), ("kernel", spec.kernel), root):
        try:
            with open(path, "rb"):
                pass
        except OSError as error:
            raise KataError(
                f"start virtual machine: {key} {path}: {error.strerror}",
                Code.FAILED_PRECONDITION,
                f"set {key} in [hypervisor.qemu]"
                + ("" if key == "path" else ", or build the guest image: kata-image build"),
            ) from error
    if spec.image:
        check_image(spec)
    free_mib = find_free_mib(spec.memory_folder)
    if free_mib < spec.memory_mib:
        raise KataError(
            f"start virtual machine: {spec.memory_folder} has {free_mib} MiB free,"
            f" the machine's memory takes {spec.memory_mib} MiB",
            Code.RESOURCE_EXHAUSTED,
            "free or enlarge it, or lower default_memory in [hypervisor.qemu]",
        )


def find_free_mib(memory_folder: str) -> int:
    """Return how much memory a guest can have.  Raises FAILED_PRECONDITION without the folder."""
    try:
        space = os.statvfs(memory_folder)
    except OSError as error:
        raise KataError(
            f"start virtual machine: memory folder {memory_folder}: {error.strerror}",
            Code.FAILED_PRECONDITION,
            "set file_mem_backend in [hypervisor.qemu]",
        ) from error
    return space.f_bavail * space.f_frsize >> 20


def _quoted(what: str, text: str) -> str:
    return f"; {what}: {text}" if text else ""


def _end_family(child: Child) -> None:
    """End virtiofsd and the process it forks for its sandbox, and wait for both."""
    family = [(pid, read_start_time(pid)) for pid in list_children(child.pid)]
    child.kill()
    child.wait(timeout_s=5.0)
    for pid, start_time in family:
        if start_time is not None:
            end_process(pid, start_time)
