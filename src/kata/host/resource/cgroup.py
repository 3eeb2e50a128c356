"""A sandbox's cgroup on the host, where engines look for a pod's use of resources.

It is a folder of the engine's choosing in each hierarchy: of version 1 there is one for each
controller, of version 2 a single one.  What a pod's limits do not leave room for stays outside of
it: kubelet's limit for a pod counts the containers only, unless the RuntimeClass names an overhead,
and a virtual machine that exceeds it would be killed.

A limit of processor time is for containers as well, and may be so low that a guest would not boot.
Where processors have a hierarchy of their own (version 1), the machine enters it when its agent has
answered.  That of version 2 cannot be entered later: memory is counted where it was taken first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kata.base.cgroups import enter_folders, expand_path, read_file
from kata.base.errors import KataError
from kata.base.processes import Child, Spawner, list_children

_QUOTA = "cpu.cfs_quota_us"
_MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.max")


@dataclass(frozen=True, slots=True)
class HostCgroupPlan:
    """The folders to use, and why some of the hierarchies have none (empty: all have)."""

    folders: tuple[str, ...]
    left_out: str = ""


def plan_cgroup(
    path: str, hierarchies: Sequence[str], needed_bytes: int, *, whole: bool
) -> HostCgroupPlan:
    """Decide which folders a sandbox's processes go to.

    Without ``whole`` a hierarchy is left out whose memory limit is below ``needed_bytes``.
    """
    below = expand_path(path)
    if below == "/" or ".." in below.split("/"):
        return HostCgroupPlan(())
    folders, left_out = [], ""
    for hierarchy in hierarchies:
        limit, where = _find_limit(hierarchy, below)
        if limit is not None and limit < needed_bytes and not whole:
            left_out = (
                f"the memory limit of {where} is {limit >> 20} MiB, the virtual machine may need"
                f" {needed_bytes >> 20} MiB"
            )
        else:
            folders.append(hierarchy + below)
    return HostCgroupPlan(tuple(folders), left_out)


class CgroupSpawner(Spawner):
    """Starts children in a cgroup.  The thread that they are tied to is another spawner's."""

    def __init__(self, spawner: Spawner, plan: HostCgroupPlan) -> None:
        """The plan's folders are there."""
        self._spawner = spawner
        self._plan = plan
        self._late = [f for f in plan.folders if os.path.exists(f"{f}/{_QUOTA}")]
        self._early = [f for f in plan.folders if f not in self._late]
        self._booting: list[int] = []

    def spawn(
        self,
        argv: Sequence[str],
        fds: Mapping[int, int],
        environ: Mapping[str, str] | None = None,
    ) -> Child:
        """See Spawner.  The child is moved before it has done anything worth counting."""
        child = self._spawner.spawn(argv, fds, environ)
        try:
            enter_folders(self._early, child.pid, argv[0])
        except KataError:
            child.kill()
            child.wait()
            raise
        self._booting.append(child.pid)
        return child

    def adopt(self, pid: int) -> None:
        """See Spawner.  Raises KataError; a process that has ended is no error."""
        enter_folders([*self._early, *self._late], pid, f"process {pid}")

    def settle(self) -> None:
        """See Spawner.  Raises KataError."""
        # All folders: a child that was made at once may have missed the first.
        while self._booting:
            pid = self._booting.pop()
            self._booting += list_children(pid)
            self.adopt(pid)

    def find_throttling(self) -> str:
        """See Spawner."""
        for folder in self._plan.folders:
            while os.path.exists(f"{folder}/cpu.stat"):  # the limit may be that of one above
                lines = read_file(f"{folder}/cpu.stat").splitlines()
                found = dict(line.split() for line in lines)
                throttled = int(found.get("nr_throttled", 0))
                if throttled:
                    return (
                        f"its processors were throttled in {throttled} of {found['nr_periods']}"
                        f" periods by the limit of {folder}"
                    )
                folder = os.path.dirname(folder)
        return ""


def _find_limit(hierarchy: str, below: str) -> tuple[int | None, str]:
    """Return the smallest memory limit on the way to a folder, and where it is set."""
    smallest, where = None, ""
    folder = hierarchy + below
    while len(folder) > len(hierarchy):
        for name in _MEMORY_LIMITS:
            text = read_file(f"{folder}/{name}")
            if text.isdecimal() and (smallest is None or int(text) < smallest):
                smallest, where = int(text), folder
        folder = os.path.dirname(folder)
    return smallest, where
