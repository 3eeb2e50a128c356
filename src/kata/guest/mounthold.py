"""Keep a container's mounts until the file server has taken back all that was open in them.

Each folder of the host is a file system of its own in the guest, and the last who has it mounted is
often a container's last process.  Linux (6.1) then ends the file system while answers to RELEASE
requests are still to come, a bug of the kernel's ("VFS: Busy inodes after unmount") in which
the process never ends.  So the agent holds the namespace of a container's mounts.
"""

from __future__ import annotations

import os
import threading
import time

from kata.base import syscalls
from kata.guest import files

SHARED = "/run/kata-containers/shared/containers"
_CONNECTIONS = "/sys/fs/fuse/connections"
_LOOK_S = 0.1
_LOOKS = 3
# Others may keep the server busy all the time; what a container had open is long closed then.
_LIMIT_S = 10.0


def prepare() -> None:
    """Make the kernel tell how many requests are under way; a kernel that cannot is no error."""
    if not os.path.ismount(_CONNECTIONS):
        try:
            syscalls.mount("fusectl", _CONNECTIONS, "fusectl")
        except OSError:
            pass


def hold(pid: int) -> int:
    """Return a descriptor that holds the mounts of a process."""
    return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def let_go(fd: int) -> None:
    """Close such a descriptor as soon as the server of the shared folder is idle."""
    if not os.path.isdir(_CONNECTIONS):
        os.close(fd)
        return
    threading.Thread(target=_wait, args=(fd,), name="mounts", daemon=True).start()


def _wait(fd: int) -> None:
    end = time.monotonic() + _LIMIT_S
    # One look is not enough: a request may be about to be sent.
    seen = 0
    while time.monotonic() < end and seen < _LOOKS:
        time.sleep(_LOOK_S)
        seen = seen + 1 if _is_idle() else 0
    os.close(fd)


def _is_idle() -> bool:
    try:
        number = os.minor(os.stat(SHARED).st_dev)
        return int(files.read(f"{_CONNECTIONS}/{number}/waiting")) == 0
    except OSError:
        return True  # no such folder: nothing is shared
