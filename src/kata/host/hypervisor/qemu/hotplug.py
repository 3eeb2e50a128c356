"""Plug devices into a running machine, each behind a PCI Express root port of its own."""

from __future__ import annotations

import threading
from typing import TypeAlias

from kata.base.errors import Code, KataError
from kata.host.hypervisor.qemu.machine import root_port_id
from kata.host.hypervisor.qemu.qmp import Qmp, QmpBrokenError, QmpRefusedError
from kata.host.hypervisor.spec import BlockDevice, NetworkDevice, SharedFolder

# A monitor command and its arguments.
Command: TypeAlias = tuple[str, dict[str, object]]


class RootPorts:
    """Which device sits behind which root port, and how what stands behind it is dropped."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._devices: list[str | None] = [None] * count
        self._backends: dict[str, Command] = {}

    def free(self) -> int:
        """Return how many ports are empty."""
        with self._lock:
            return self._devices.count(None)

    def take(self, device_id: str, drop_backend: Command) -> int:
        """Give a device a port and return its index.

        Raises ALREADY_EXISTS, or RESOURCE_EXHAUSTED when no port is left.
        """
        with self._lock:
            if device_id in self._devices:
                raise KataError(f"plug {device_id}: it is plugged in", Code.ALREADY_EXISTS)
            if None not in self._devices:
                raise KataError(
                    f"plug {device_id}: all {len(self._devices)} PCI ports are taken",
                    Code.RESOURCE_EXHAUSTED,
                    "raise pcie_root_port in [hypervisor.qemu]",
                )
            index = self._devices.index(None)
            self._devices[index] = device_id
            self._backends[device_id] = drop_backend
            return index

    def backend(self, device_id: str) -> Command:
        """Return the command that drops a device's backend; NOT_FOUND without such a device."""
        with self._lock:
            if device_id not in self._backends:
                raise KataError(f"unplug {device_id}: no such device", Code.NOT_FOUND)
            return self._backends[device_id]

    def release(self, device_id: str) -> None:
        """Empty the port of ``device_id``."""
        with self._lock:
            self._devices[self._devices.index(device_id)] = None
            del self._backends[device_id]


def plug_network(qmp: Qmp, ports: RootPorts, device: NetworkDevice) -> str:
    """Plug a card on a tap device's descriptor; returns the PCI path in the guest."""
    backend = f"net-{device.id}"
    qmp.execute("getfd", {"fdname": backend}, fd=device.tap_fd)
    return _plug(
        qmp,
        ports,
        ("netdev_add", {"type": "tap", "id": backend, "fd": backend}),
        {
            "driver": "virtio-net-pci",
            "id": device.id,
            "netdev": backend,
            "mac": device.mac,
        },
    )


def plug_share(qmp: Qmp, ports: RootPorts, share: SharedFolder, fd: int) -> None:
    """Plug a folder that virtiofsd serves on ``fd``, which is borrowed."""
    backend = f"share-{share.tag}"
    qmp.execute("getfd", {"fdname": backend}, fd=fd)
    _plug(
        qmp,
        ports,
        (
            "chardev-add",
            {
                "id": backend,
                "backend": {
                    "type": "socket",
                    "data": {"addr": {"type": "fd", "data": {"str": backend}}, "server": False},
                },
            },
        ),
        {
            "driver": "vhost-user-fs-pci",
            "id": f"fs-{share.tag}",
            "chardev": backend,
            "tag": share.tag,
            "queue-size": share.queue_size,
        },
    )


def plug_block(qmp: Qmp, ports: RootPorts, device: BlockDevice) -> str:
    """Plug a raw disk; returns the PCI path in the guest."""
    node = _node(device.id)
    file = {
        "driver": "host_device" if device.raw_device else "file",
        "filename": device.path,
        "read-only": device.read_only,
    }
    return _plug(
        qmp,
        ports,
        (
            "blockdev-add",
            {"driver": "raw", "node-name": node, "read-only": device.read_only, "file": file},
        ),
        {"driver": "virtio-blk-pci", "id": device.id, "drive": node},
    )


def resize_block(qmp: Qmp, device_id: str, size_bytes: int) -> None:
    """Give a plugged disk another size, which its file gets as well."""
    qmp.execute("block_resize", {"node-name": _node(device_id), "size": size_bytes})


def unplug(qmp: Qmp, ports: RootPorts, device_id: str, timeout_s: float) -> None:
    """Ask the guest to let go of a device, wait until it has, and drop what stands behind it.

    May be called again for one that was too slow.
    """
    backend = ports.backend(device_id)
    refusal: QmpRefusedError | None = None
    try:
        qmp.execute("device_del", {"id": device_id})
    except QmpRefusedError as error:
        refusal = error  # it is on its way out, or has left
    try:
        qmp.wait_event("DEVICE_DELETED", lambda data: data.get("device") == device_id, timeout_s)
    except QmpBrokenError as error:
        raise refusal or error from error
    ports.release(device_id)
    qmp.execute(*backend)


def _node(device_id: str) -> str:
    return f"node-{device_id}"


def _plug(qmp: Qmp, ports: RootPorts, backend: Command, properties: dict[str, object]) -> str:
    device_id = str(properties["id"])
    port = ports.take(device_id, _opposite(backend))
    try:
        qmp.execute(*backend)
        try:
            return _add(qmp, port, properties)
        except BaseException:
            qmp.execute(*_opposite(backend))
            raise
    except BaseException:
        ports.release(device_id)
        raise


def _opposite(backend: Command) -> Command:
    command, arguments = backend
    if command == "netdev_add":
        return "netdev_del", {"id": arguments["id"]}
    if command == "chardev-add":
        return "chardev-remove", {"id": arguments["id"]}
    return "blockdev-del", {"node-name": arguments["node-name"]}


def _add(qmp: Qmp, port: int, properties: dict[str, object]) -> str:
    qmp.execute("device_add", {**properties, "bus": root_port_id(port), "addr": "0"})
    bus = root_port_id(port)
    for entry in qmp.execute("query-pci")[0]["devices"]:
        if entry.get("qdev_id") == bus:
            return f"{entry['slot']:02x}/00"
    raise KataError(f"plug {properties['id']}: root port {bus} is not on the bus")
