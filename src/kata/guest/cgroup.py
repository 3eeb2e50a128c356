"""One container's cgroup (version 2): freeze, kill, list; and where it is."""

from __future__ import annotations

import errno
import os
import select
import time

from kata.base.errors import Code, KataError
from kata.guest import files

ROOT = "/sys/fs/cgroup"
# Freezing waits for processes to reach user space; one in a long system call may take a while.
FREEZE_TIMEOUT_S = 10.0


def find_path(pid: int) -> str:
    """Return the folder of a process's cgroup; empty where the host has no unified hierarchy."""
    text = files.find(f"/proc/{pid}/cgroup") or ""
    for line in text.splitlines():
        if line.startswith("0::/") and line != "0::/":
            path = ROOT + line[3:]
            return path if os.path.exists(f"{path}/cgroup.freeze") else ""
    return ""


def list_folders(pid: int) -> list[str]:
    """Return the folders of all cgroups that a process is in, of either version."""
    folders = []
    for line in (files.find(f"/proc/{pid}/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if path != "/":
            folder = f"{ROOT}/{controllers.removeprefix('name=')}".rstrip("/") + path
            if os.path.exists(f"{folder}/cgroup.procs"):
                folders.append(folder)
    return folders


def freeze(path: str, frozen: str) -> None:
    """Freeze (``"1"``) or thaw (``"0"``), and return when the kernel has done it.

    Raises DEADLINE_EXCEEDED; the cgroup is then thawed again.
    """
    deadline = time.monotonic() + FREEZE_TIMEOUT_S
    fd = os.open(f"{path}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        files.control(f"{path}/cgroup.freeze", frozen)
        # Each read arms the next notification (kernfs).
        while f"frozen {frozen}" not in os.pread(fd, 4096, 0).decode():
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                files.control(f"{path}/cgroup.freeze", "0")
                raise KataError(
                    f"freeze {path}: processes still run after {FREEZE_TIMEOUT_S:g} s",
                    Code.DEADLINE_EXCEEDED,
                )
            poll.poll(remaining_s * 1000)
    finally:
        os.close(fd)


def list_pids(path: str) -> list[int]:
    """Return the processes in the cgroup and below it."""
    pids: list[int] = []
    for folder, _, _ in os.walk(path):
        try:
            pids += [int(word) for word in files.read(f"{folder}/cgroup.procs").split()]
        except OSError as error:
            # Removed meanwhile; or threaded, and the processes are told above it (cgroups(7)).
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.EOPNOTSUPP):
                raise
    return pids


def kill(path: str) -> None:
    """Kill every process in the cgroup and below it; one that is gone is no error."""
    try:
        files.control(f"{path}/cgroup.kill", "1")
    except (FileNotFoundError, OSError) as error:
        if not isinstance(error, FileNotFoundError) and error.errno != 19:  # ENODEV: being removed
            raise
