"""The loopback interface."""

from __future__ import annotations

import _socket
import fcntl
import struct

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
IFF_RUNNING = 0x40


def bring_up() -> None:
    """Bring ``lo`` up; the kernel gives it its addresses.  Raises OSError."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        request = struct.pack("16sh14x", b"lo", IFF_UP | IFF_RUNNING)
        fcntl.ioctl(control.fileno(), SIOCSIFFLAGS, request)
    finally:
        control.close()
