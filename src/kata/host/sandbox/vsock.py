"""The agent's connection over vhost-vsock, where the host has it."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import struct
import time
from collections.abc import Callable

from kata.base.errors import Code, KataError

DEVICE = "/dev/vhost-vsock"
AGENT_PORT = 1024
_VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60  # linux/vhost.h
_FIRST_CID = 3  # 0 to 2 are reserved (vsock(7))
_LAST_CID = 0xFFFFFFFE
# A connection to a guest that is not listening yet is refused at once; there is no event for "now".
_RETRY_S = 0.02


def is_available() -> bool:
    """Return whether this host can give a machine a vsock device."""
    return os.access(DEVICE, os.R_OK | os.W_OK)


def choose_cid() -> int:
    """Return a random context id; taking it fails if another machine has it."""
    return random.SystemRandom().randint(_FIRST_CID, _LAST_CID)


def open_vhost(cid: int) -> int:
    """Open the device with ``cid`` taken; the caller owns the descriptor."""
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        os.close(fd)
        raise KataError(
            f"take vsock context id {cid}: {error.strerror}", Code.UNAVAILABLE
        ) from error
    return fd


def connect(cid: int, deadline: float, is_alive: Callable[[], bool]) -> socket.socket:
    """Connect to the agent, trying until it listens, the machine dies, or ``deadline``."""
    while True:
        sock = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        sock.settimeout(max(0.01, min(1.0, deadline - time.monotonic())))
        try:
            sock.connect((cid, AGENT_PORT))
        except OSError as error:
            sock.close()
            if not is_alive():
                raise KataError(
                    "connect to agent: the machine has ended", Code.UNAVAILABLE
                ) from error
            if time.monotonic() > deadline:
                raise KataError("connect to agent: no answer", Code.DEADLINE_EXCEEDED) from error
            time.sleep(_RETRY_S)
            continue
        sock.settimeout(None)
        return sock
