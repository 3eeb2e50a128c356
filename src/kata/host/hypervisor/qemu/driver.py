"""Start and drive one QEMU.  The command line's parts come from the modules beside this one."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from kata.base.errors import Code, KataError
from kata.base.processes import Child, Spawner
from kata.host.hypervisor import interface
from kata.host.hypervisor.qemu import channels, hotplug, machine, migration
from kata.host.hypervisor.qemu.options import InheritedFds, Option, render_argv
from kata.host.hypervisor.qemu.qmp import Qmp, QmpBrokenError
from kata.host.hypervisor.spec import (
    NEW_NETNS,
    BlockDevice,
    GuestStreams,
    LentFds,
    NetworkDevice,
    SharedFolder,
    VmSpec,
)

# Of util-linux, which is essential.
_NSENTER = "/usr/bin/nsenter"
_UNSHARE = "/usr/bin/unshare"
_ABILITIES = frozenset({interface.HOTPLUG_NETWORK, interface.HOTPLUG_BLOCK, interface.TEMPLATE})


@dataclass(frozen=True, slots=True)
class ChannelFds:
    """The child's numbers of the descriptors it inherits; None where there is no such channel."""

    monitor: int
    console: int
    agent_log: int
    agent: int | None
    share: int | None
    vsock: int | None
    memory: int | None = None


def plan_options(
    spec: VmSpec, fds: ChannelFds, *, restored: bool = False, image_bytes: int = 0
) -> list[Option]:
    """Return QEMU's whole command line, without the program.  ``image_bytes``: the image's size."""
    options = machine.machine_options(spec, image_bytes)
    options += machine.memory_options(spec, fds.memory)
    options += machine.image_options(spec, image_bytes)
    options += machine.origin_options(spec, restored=restored)
    options += channels.monitor_options(fds.monitor)
    options += channels.console_options(fds.console)
    options += channels.agent_port_options(fds.agent, fds.agent_log)
    if spec.vsock_cid is not None and fds.vsock is not None:
        options += channels.vsock_options(spec.vsock_cid, fds.vsock)
    if spec.share is not None and fds.share is not None:
        options += channels.share_options(spec.share, fds.share)
    return options + machine.root_port_options(spec.root_ports)


class Qemu:
    """One QEMU process.  Owns it and its monitor; the guest's streams belong to the caller."""

    def __init__(self, spawner: Spawner) -> None:
        self._spawner = spawner
        self._child: Child | None = None
        self._qmp: Qmp | None = None
        self._ports = hotplug.RootPorts(0)

    def start(self, spec: VmSpec, lent: LentFds, *, restored: bool = False) -> GuestStreams:
        """Start the machine and return at once; a ``restored`` one waits for its state."""
        inherited = InheritedFds()
        theirs: list[int] = []
        ours: list[int] = []

        def inherit(fd: int) -> int | None:
            return inherited.add(fd) if fd >= 0 else None

        def stream() -> tuple[int, int]:
            mine, other = socket.socketpair()
            ours.append(mine.detach())
            theirs.append(other.detach())
            return ours[-1], inherited.add(theirs[-1])

        try:
            monitor, monitor_number = stream()
            console, console_number = stream()
            agent_log, log_number = stream()
            agent, agent_number = stream() if spec.vsock_cid is None else (-1, None)
            fds = ChannelFds(
                monitor=monitor_number,
                console=console_number,
                agent_log=log_number,
                agent=agent_number,
                share=inherit(lent.share),
                vsock=inherit(lent.vsock),
                memory=inherit(lent.memory),
            )
            size = os.stat(spec.image).st_size if spec.image else 0
            options = plan_options(spec, fds, restored=restored, image_bytes=size)
            argv = render_argv(spec.binary, options)
            # A machine that got out of its bounds is still in the pod's network only.
            if spec.netns_path == NEW_NETNS:
                argv = [_UNSHARE, "--net", "--", *argv]
            elif spec.netns_path:
                argv = [_NSENTER, f"--net={spec.netns_path}", "--", *argv]
            stderr, stderr_child = os.pipe()
            ours.append(stderr)
            theirs.append(stderr_child)
            self._child = self._spawner.spawn(
                argv, {1: stderr_child, 2: stderr_child, **inherited.by_number}
            )
        except BaseException:
            _close_all(ours)
            raise
        finally:
            _close_all(theirs)
        self._qmp = Qmp(socket.socket(fileno=monitor))
        self._ports = hotplug.RootPorts(spec.root_ports)
        return GuestStreams(agent, console, agent_log, stderr)

    def child(self) -> Child:
        """Return the machine's process."""
        if self._child is None:
            raise KataError("use machine: it was not started", Code.FAILED_PRECONDITION)
        return self._child

    def stop(self) -> None:
        """Kill the machine and reap it."""
        if self._child is not None:
            self._child.kill()
            self._child.wait(timeout_s=10.0)
        if self._qmp is not None:
            self._qmp.close()

    def pause(self) -> None:
        """Stop the virtual processors."""
        self._monitor().execute("stop")

    def resume(self) -> None:
        """Let the virtual processors run again."""
        self._monitor().execute("cont")

    def supports(self, ability: str) -> bool:
        """Return whether an optional ability is there."""
        return ability in _ABILITIES and self._ports.free() > 0

    def save(self) -> bytes:
        """Stop the machine for ever and return its state, without its memory."""
        return migration.save(self._monitor())

    def restore(self, state: bytes) -> None:
        """Give a machine that was started for it its state, and let it run."""
        migration.restore(self._monitor(), state)

    def plug_share(self, share: SharedFolder, share_fd: int) -> None:
        """Plug a shared folder in; ``share_fd`` is virtiofsd's socket, borrowed."""
        hotplug.plug_share(self._monitor(), self._ports, share, share_fd)

    def plug_network(self, device: NetworkDevice) -> str:
        """Plug a network card in; returns its PCI path in the guest."""
        return hotplug.plug_network(self._monitor(), self._ports, device)

    def plug_block(self, device: BlockDevice) -> str:
        """Plug a disk in; returns its PCI path in the guest."""
        return hotplug.plug_block(self._monitor(), self._ports, device)

    def resize_block(self, device_id: str, size_bytes: int) -> None:
        """Tell the guest that a disk has grown; a file is made to."""
        hotplug.resize_block(self._monitor(), device_id, size_bytes)

    def unplug(self, device_id: str, timeout_s: float) -> None:
        """Take a device out; returns when the guest has let go of it."""
        hotplug.unplug(self._monitor(), self._ports, device_id, timeout_s)

    def _monitor(self) -> Qmp:
        if self._qmp is None:
            raise QmpBrokenError("use monitor: the machine was not started")
        return self._qmp


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
