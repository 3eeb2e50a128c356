"""Byte streams between host and guest: console, agent, its log; and the shared folder's socket."""

from __future__ import annotations

from kata.host.hypervisor.qemu.options import Option, json_option
from kata.host.hypervisor.spec import SharedFolder

# The names the agent looks for under /sys/class/virtio-ports; the first is that of Kata 1.x.
AGENT_PORT = "agent.channel.0"
AGENT_LOG_PORT = "agent.log.0"


def _socket_chardev(name: str, fd: int) -> Option:
    return "-chardev", f"socket,id={name},fd={fd}"


def monitor_options(fd: int) -> list[Option]:
    """Plan QMP on an inherited, connected socket."""
    return [_socket_chardev("qmp", fd), ("-mon", "chardev=qmp,mode=control")]


def console_options(fd: int) -> list[Option]:
    """Plan the console: a serial port, because it works from the kernel's first line on."""
    return [
        _socket_chardev("console", fd),
        json_option("-device", {"driver": "isa-serial", "id": "console0", "chardev": "console"}),
    ]


def agent_port_options(agent_fd: int | None, log_fd: int) -> list[Option]:
    """Plan the virtio-serial ports; ``agent_fd`` is None when the agent is reached by vsock."""
    options = [
        json_option("-device", {"driver": "virtio-serial-pci", "id": "serial0", "max_ports": 4})
    ]
    ports = [(AGENT_LOG_PORT, "agentlog", log_fd)]
    if agent_fd is not None:
        ports.insert(0, (AGENT_PORT, "agent", agent_fd))
    for number, (name, chardev, fd) in enumerate(ports, start=1):
        options += [
            _socket_chardev(chardev, fd),
            json_option(
                "-device",
                {
                    "driver": "virtserialport",
                    "id": f"port{number}",
                    "bus": "serial0.0",
                    "nr": number,
                    "chardev": chardev,
                    "name": name,
                },
            ),
        ]
    return options


def vsock_options(cid: int, vhost_fd: int) -> list[Option]:
    """Plan vhost-vsock on an inherited /dev/vhost-vsock that has taken ``cid``."""
    return [
        json_option(
            "-device",
            {
                "driver": "vhost-vsock-pci",
                "id": "vsock0",
                "guest-cid": cid,
                "vhostfd": str(vhost_fd),
            },
        )
    ]


def share_options(share: SharedFolder, fd: int) -> list[Option]:
    """Plan virtio-fs on a socket connected to virtiofsd."""
    return [
        _socket_chardev("share", fd),
        json_option(
            "-device",
            {
                "driver": "vhost-user-fs-pci",
                "id": "fs0",
                "chardev": "share",
                "tag": share.tag,
                "queue-size": share.queue_size,
            },
        ),
    ]
