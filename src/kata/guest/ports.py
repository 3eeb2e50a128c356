"""virtio-serial ports: found by name, opened, and watched for a host that comes back."""

from __future__ import annotations

import _socket
import os
import select
import time

from kata.base.errors import Code, KataError
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PORTS = "/sys/class/virtio-ports"
CHANNEL = "agent.channel.0"
LOG = "agent.log.0"
# From the driver's load to the port's name is one exchange with the host.
PORT_TIMEOUT_S = 20.0
_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_UEVENT_SIZE = 1 << 13


class Uevents:
    """The kernel's notices of new devices; made before the driver that is waited for is loaded."""

    def __init__(self) -> None:
        self._socket = _socket.socket(
            _socket.AF_NETLINK, _socket.SOCK_DGRAM, _NETLINK_KOBJECT_UEVENT
        )
        self._socket.bind((0, _KERNEL_GROUP))

    def wait_for(self, find: Callable[[], str | None], timeout_s: float) -> str | None:
        """Return what ``find`` finds, asked again after each notice; None after ``timeout_s``."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = find()
            remaining_s = deadline - time.monotonic()
            if found is not None or remaining_s <= 0:
                return found
            self._socket.settimeout(remaining_s)
            try:
                self._socket.recv(_UEVENT_SIZE)
            except TimeoutError:
                pass
            except OSError as error:
                if error.errno != 105:  # ENOBUFS: notices were lost, so look again
                    raise

    def close(self) -> None:
        """Stop listening.  May be called twice."""
        self._socket.close()


def find_port(name: str) -> str | None:
    """Return the device of the port with this name, or None."""
    try:
        ports = os.listdir(PORTS)
    except FileNotFoundError:
        return None
    for port in ports:
        if (files.find(f"{PORTS}/{port}/name") or "").strip() == name:
            device = f"/dev/{port}"
            return device if os.path.exists(device) else None
    return None


def open_channel(uevents: Uevents) -> int:
    """Open the port of the agent's channel; the caller owns the descriptor.

    Raises NOT_FOUND when the machine has none.
    """
    device = uevents.wait_for(lambda: find_port(CHANNEL), PORT_TIMEOUT_S)
    if device is None:
        raise KataError(
            f"open channel: no virtio-serial port {CHANNEL} after {PORT_TIMEOUT_S:g} s",
            Code.NOT_FOUND,
        )
    return os.open(device, os.O_RDWR | os.O_CLOEXEC)


def wait_for_host(fd: int) -> None:
    """Wait until the host's end of a port is connected.  Borrows the descriptor."""
    with select.epoll() as epoll:
        # Level-triggered, a port without a host is always ready (EPOLLHUP); edge-triggered, the
        # driver wakes us when the host comes.
        epoll.register(fd, select.EPOLLIN | select.EPOLLET)
        while _is_hung_up(fd):
            epoll.poll()


def _is_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))
