"""What the QEMU driver does to a running machine, seen from inside by the agent's metrics."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.hypervisor import interface
from kata.host.hypervisor.spec import BlockDevice, NetworkDevice
from kata.host.sandbox.sandbox import Sandbox

pytestmark = pytest.mark.vm

_TUNSETIFF = 0x400454CA
_IFF_TAP_NO_PI = 0x0002 | 0x1000
_TIMEOUT_S = 20.0


def names(sandbox: Sandbox, family: str, label: str) -> set[str]:
    """Return the values that a label of a metric family has in the guest."""
    text = sandbox.agent.get_metrics(60.0)
    return set(re.findall(rf'^{family}{{[^}}]*{label}="([^"]+)"', text, re.MULTILINE))


def wait_for(sandbox: Sandbox, family: str, label: str, wanted: str, *, there: bool) -> None:
    deadline = time.monotonic() + _TIMEOUT_S
    while (wanted in (found := names(sandbox, family, label))) is not there:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.fixture
def tap() -> Iterator[int]:
    """A tap device of ours."""
    fd = os.open("/dev/net/tun", os.O_RDWR)
    name = f"kt{os.getpid() % 100000}"
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP_NO_PI))
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield fd
    os.close(fd)


def test_disk_is_plugged_in_and_out(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(8 << 20))
    assert sandbox.hypervisor.supports(interface.HOTPLUG_BLOCK)
    for _ in range(2):  # twice, so that nothing of the first is in the way
        path = sandbox.hypervisor.plug_block(BlockDevice("disk0", str(disk), False, False))
        assert re.fullmatch(r"[0-9a-f]{2}/00", path)
        wait_for(sandbox, "kata_guest_diskstat", "disk", "vda", there=True)
        sandbox.hypervisor.unplug("disk0", _TIMEOUT_S)
        wait_for(sandbox, "kata_guest_diskstat", "disk", "vda", there=False)


def test_network_card_is_plugged_in_and_out(sandbox: Sandbox, tap: int) -> None:
    for _ in range(2):
        sandbox.hypervisor.plug_network(NetworkDevice("net0", "02:00:00:00:00:01", tap))
        wait_for(sandbox, "kata_guest_netdev_stat", "interface", "eth0", there=True)
        sandbox.hypervisor.unplug("net0", _TIMEOUT_S)
        wait_for(sandbox, "kata_guest_netdev_stat", "interface", "eth0", there=False)


def test_disk_that_is_missing_is_refused_and_its_port_stays_free(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    for _ in range(6):  # more often than there are ports
        with pytest.raises(KataError, match="nothing-here"):
            sandbox.hypervisor.plug_block(
                BlockDevice("disk1", str(tmp_path / "nothing-here"), True, False)
            )


def test_more_devices_than_ports_are_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    plugged: list[str] = []
    try:
        while sandbox.hypervisor.supports(interface.HOTPLUG_BLOCK):
            device = BlockDevice(f"many{len(plugged)}", str(disk), True, False)
            sandbox.hypervisor.plug_block(device)
            plugged.append(device.id)
        with pytest.raises(KataError, match="pcie_root_port") as caught:
            sandbox.hypervisor.plug_block(BlockDevice("last", str(disk), True, False))
        assert caught.value.code == Code.RESOURCE_EXHAUSTED
    finally:
        for device_id in plugged:
            sandbox.hypervisor.unplug(device_id, _TIMEOUT_S)
    assert sandbox.hypervisor.supports(interface.HOTPLUG_BLOCK)


def test_machine_is_paused_and_resumed(sandbox: Sandbox) -> None:
    sandbox.hypervisor.pause()
    with pytest.raises(KataError) as caught:
        sandbox.agent.check(1.0)
    assert caught.value.code == Code.DEADLINE_EXCEEDED
    sandbox.hypervisor.resume()
    sandbox.agent.check(_TIMEOUT_S)


def test_console_and_agent_log_are_kept(sandbox: Sandbox) -> None:
    folder = Path("/run/kata") / sandbox.id
    assert "sandbox created" in (folder / "agent.log").read_text()
    assert (folder / "console.log").exists()
