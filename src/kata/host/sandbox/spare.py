"""A machine that runs already and waits for a sandbox of its kind.

It belongs to the process that will be the sandbox's shim, so nothing changes hands but names: the
state folder, the shared folder and the cgroup become the sandbox's.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kata.base.errors import Code, KataError, describe_error
from kata.base.ids import MAX_LENGTH
from kata.base.log import Logger
from kata.base.processes import Spawner, read_start_time
from kata.base.title import replace_in_title
from kata.config.records import Config
from kata.host.hypervisor.spec import NEW_NETNS, SharedFolder, VmSpec
from kata.host.sandbox import plan
from kata.host.sandbox.cleanup import clean_up, is_orphaned
from kata.host.sandbox.machine import Machine, MachineContext
from kata.host.sandbox.record import ProcessEntry, RecordFile
from kata.host.sandbox.rehearsal import rehearse
from kata.host.share import layout
from kata.host.template.key import template_key
from kata.host.template.store import Store

# State folders and machines of this name belong to no sandbox.
PREFIX = "spare-"


class Spare:
    """One machine, taken once or closed.  Made, moved and closed by the process that it is for."""

    def __init__(
        self, kind: Mapping[str, Any], config: Config, log: Logger, spawner: Spawner
    ) -> None:
        """Start a copy of a template and get its guest ready, which takes a while.

        ``kind`` is what ``describe_kind`` returned for another sandbox.  Raises KataError, OSError,
        or TypeError for a kind of another version; nothing is left then.  NOT_FOUND means that
        there is no template.
        """
        self._log = log
        self._kind = _to_text(kind)
        spec = read_machine(kind)
        self._key = template_key(*plan.describe_machine(spec))
        own_id = spare_id(os.getpid())
        self._id = own_id
        if is_orphaned(own_id):  # another process with this pid was killed
            clean_up(own_id)
        self._record = RecordFile(own_id)
        self._shared = layout.shared_paths(own_id)
        hypervisor = replace(
            config.hypervisor,
            virtio_fs_daemon=kind["share"]["virtio_fs_daemon"],
            virtio_fs_cache=kind["share"]["virtio_fs_cache"],
            virtio_fs_extra_args=tuple(kind["share"]["virtio_fs_extra_args"]),
        )
        config = replace(config, hypervisor=hypervisor)
        self._record.create("factory", make_shim_entry())
        self._mounts: layout.DetachedMounts | None = None
        self._machine = Machine(MachineContext(config, log, spawner, self._record))
        try:
            layout.prepare_shared_folder(self._shared)
            self._start(replace(spec, name=own_id), config.factory.template_path)
        except BaseException:
            self.close()
            raise

    def _start(self, spec: VmSpec, templates: str) -> None:
        template = Store(templates).open(self._key)
        if template is None:
            raise KataError("warm virtual machine: there is no template", Code.NOT_FOUND)
        try:
            self._machine.restore(spec, self._shared, template)
        finally:
            template.close()
        self._machine.wait_agent(spec)
        self._machine.warm([plan.plan_share_storage()])
        rehearse(self._machine.agent, self._shared.mounts)

    def processes(self) -> list[int]:
        """Return the pids of what runs besides this process."""
        return self._machine.processes()

    def call_when_lost(self, on_lost: Callable[[], None]) -> None:
        """Call ``on_lost`` when the machine dies before it is given, or now if it has."""
        self._machine.call_when_lost(lambda _: on_lost())

    def detach(self) -> None:
        """Get ready for ``give`` from another mount namespace."""
        self._mounts = layout.DetachedMounts(self._shared)

    def fits(self, config: Config, spec: VmSpec) -> bool:
        """Return whether the machine is what a sandbox needs, with nothing changed since."""
        try:
            key = template_key(*plan.describe_machine(spec))
        except OSError:
            return False
        return (self._kind, self._key) == (_to_text(plan.describe_kind(config, spec)), key)

    def give(self, context: MachineContext, sandbox_id: str) -> Machine:
        """Let the machine be a sandbox's.  Raises KataError; the caller closes it then."""
        shared = layout.shared_paths(sandbox_id)
        if self._mounts is None or not self._machine.is_alive():
            raise KataError("use warm virtual machine: it has ended", Code.UNAVAILABLE)
        try:
            os.rename(self._shared.base, shared.base)
            self._shared = shared
            self._mounts.attach(shared)
        except OSError as error:
            raise KataError(f"move {self._shared.base}: {error}", Code.INTERNAL) from error
        self._machine.move(context)
        self._mounts.close()
        self._record.remove()
        for pid in self._machine.processes():
            try:
                replace_in_title(pid, self._id, sandbox_id)
            except OSError as error:
                context.log.debug("name not shown", pid=pid, error=describe_error(error))
        return self._machine

    def close(self) -> None:
        """End a machine that nobody took.  Failures are logged."""
        try:
            self._machine.close()
            if self._mounts is not None:
                self._mounts.close()
            layout.unmount_below(self._shared.base)
            layout.remove_skeleton(self._shared.base)
            self._record.remove()
        except (KataError, OSError) as error:
            self._log.warning("spare not removed", reason=describe_error(error))

    def close_aside(self) -> None:
        """Close it while the caller goes on."""
        threading.Thread(target=self.close, name="spare", daemon=True).start()


def spare_id(pid: int) -> str:
    """Return what takes the place of a sandbox's id, and its room on command lines."""
    return f"{PREFIX}{pid}-".ljust(MAX_LENGTH, "-")


def make_shim_entry() -> ProcessEntry:
    """Return this process as a record names it."""
    return ProcessEntry("shim", os.getpid(), read_start_time(os.getpid()) or 0)


def read_machine(kind: Mapping[str, Any]) -> VmSpec:
    """Return the machine of a kind.  Raises TypeError or KeyError for one of another version."""
    fields = dict(kind["machine"])
    return VmSpec(
        **{**fields, "kernel_params": tuple(fields["kernel_params"])},
        name="spare",
        share=SharedFolder(layout.TAG, kind["share"]["virtio_fs_queue_size"]),
        vsock_cid=None,
        netns_path=NEW_NETNS,
    )


def _to_text(kind: Mapping[str, Any]) -> str:
    return json.dumps(kind, sort_keys=True)
