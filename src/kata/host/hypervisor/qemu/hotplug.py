"""Plug devices into a running machine: network cards and disks behind PCI Express root ports."""

from __future__ import annotations

import threading

from kata.base.errors import Code, KataError
from kata.host.hypervisor.qemu.machine import root_port_id
from kata.host.hypervisor.qemu.qmp import Qmp
from kata.host.hypervisor.spec import BlockDevice, NetworkDevice


class RootPorts:
    """Which device sits behind which root port."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._devices: list[str | None] = [None] * count

    def free(self) -> int:
        """Return how many ports are empty."""
        with self._lock:
            return self._devices.count(None)

    def take(self, device_id: str) -> int:
        """Give ``device_id`` a port and return its index; RESOURCE_EXHAUSTED when none is left."""
        with self._lock:
            if None not in self._devices:
                raise KataError(
                    f"plug {device_id}: all {len(self._devices)} PCI ports are taken",
                    Code.RESOURCE_EXHAUSTED,
                    "raise pcie_root_port in [hypervisor.qemu]",
                )
            index = self._devices.index(None)
            self._devices[index] = device_id
            return index

    def release(self, device_id: str) -> None:
        """Empty the port of ``device_id``."""
        with self._lock:
            self._devices[self._devices.index(device_id)] = None


def plug_network(qmp: Qmp, ports: RootPorts, device: NetworkDevice) -> str:
    """Plug a card on a tap device's descriptor; returns the PCI path in the guest."""
    port = ports.take(device.id)
    try:
        name = f"tap-{device.id}"
        qmp.execute("getfd", {"fdname": name}, fd=device.tap_fd)
        qmp.execute("netdev_add", {"type": "tap", "id": f"net-{device.id}", "fd": name})
        return _add(
            qmp,
            port,
            {
                "driver": "virtio-net-pci",
                "id": device.id,
                "netdev": f"net-{device.id}",
                "mac": device.mac,
            },
        )
    except BaseException:
        ports.release(device.id)
        raise


def plug_block(qmp: Qmp, ports: RootPorts, device: BlockDevice) -> str:
    """Plug a raw disk; returns the PCI path in the guest."""
    port = ports.take(device.id)
    try:
        node = f"disk-{device.id}"
        qmp.execute(
            "blockdev-add",
            {
                "driver": "raw",
                "node-name": node,
                "read-only": device.read_only,
                "file": {
                    "driver": "host_device" if device.raw_device else "file",
                    "filename": device.path,
                    "read-only": device.read_only,
                },
            },
        )
        return _add(qmp, port, {"driver": "virtio-blk-pci", "id": device.id, "drive": node})
    except BaseException:
        ports.release(device.id)
        raise


def unplug(qmp: Qmp, ports: RootPorts, device_id: str, timeout_s: float) -> None:
    """Ask the guest to let go of a device and wait until it has."""
    qmp.execute("device_del", {"id": device_id})
    qmp.wait_event("DEVICE_DELETED", device_id, timeout_s)
    ports.release(device_id)


def _add(qmp: Qmp, port: int, properties: dict[str, object]) -> str:
    qmp.execute("device_add", {**properties, "bus": root_port_id(port), "addr": "0"})
    bus = root_port_id(port)
    for entry in qmp.execute("query-pci")[0]["devices"]:
        if entry.get("qdev_id") == bus:
            return f"{entry['slot']:02x}/00"
    raise KataError(f"plug {properties['id']}: root port {bus} is not on the bus")
