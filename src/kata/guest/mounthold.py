"""Keep a container's mounts until the file server has taken back all that was open in them.

Each folder of the host is a file system of its own in the guest, and the last who has it mounted is
often a container's last process.  Linux (6.1) then ends the file system while answers to RELEASE
requests are still to come, a bug of the kernel's ("VFS: Busy inodes after unmount") in which
the process never ends.  So the agent holds the namespace of a container's mounts.

The kernel does not tell how many requests of virtio-fs are under way (it has no entry in fusectl).
But the server answers in their order: when it has answered a later request, what was sent before is
done.  The kernel keeps back what exceeds a dozen requests of this kind, hence several rounds.
"""

from __future__ import annotations

import os
import threading
import time

SHARED = "/run/kata-containers/shared/containers"
_ROUNDS = 10
_PAUSE_S = 0.05


def hold(pid: int) -> int:
    """Return a descriptor that holds the mounts of a process."""
    return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def let_go(fd: int) -> None:
    """Close such a descriptor as soon as the server of the shared folder has caught up."""
    if not os.path.ismount(SHARED):
        os.close(fd)
        return
    threading.Thread(target=_wait, args=(fd,), name="mounts", daemon=True).start()


def _wait(fd: int) -> None:
    try:
        for _ in range(_ROUNDS):
            time.sleep(_PAUSE_S)
            os.statvfs(SHARED)  # asks the server each time
    except OSError:
        pass  # the folder was taken away, or its server has ended
    os.close(fd)
