"""Why a killed process does not end: what the kernel tells about it, for the log."""

from __future__ import annotations

import os
import threading

from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.log import Logger
    from kata.guest.process import Process

# Under emulation the kernel's tear-down of a large process takes seconds.
_PATIENCE_S = 15.0


def watch(process: Process, cgroup: str, log: Logger) -> None:
    """Log what holds a process that was sent SIGKILL, if it has not ended after a while."""

    def run() -> None:
        if process.exit.wait(_PATIENCE_S) is None:
            pids = [process.pid, *_list_pids(cgroup)]
            log.error(
                f"{process.name} lives after SIGKILL",
                pid=process.pid,
                processes="; ".join(dict.fromkeys(_describe(pid) for pid in pids)),
            )

    threading.Thread(target=run, name="stuck", daemon=True).start()


def _list_pids(cgroup: str) -> list[int]:
    text = files.find(f"{cgroup}/cgroup.procs") if cgroup else None
    return [int(pid) for pid in (text or "").split()]


def _describe(pid: int) -> str:
    """Return a process's name, state, parent and where it waits in the kernel."""
    status = files.find(f"/proc/{pid}/status")
    if status is None:
        return f"{pid}: gone"
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    described = [fields.get(key, "?") for key in ("Name", "State", "PPid", "SigPnd", "ShdPnd")]
    try:
        stack = files.read(f"/proc/{pid}/stack").splitlines()
        described.append(" < ".join(line.rpartition(" ")[2] for line in stack))
        described.append(" ".join(sorted(os.listdir(f"/proc/{pid}/task"), key=int)))
    except OSError:
        pass  # it ends just now, or the kernel keeps no stacks
    return f"{pid}: {', '.join(described)}"
