"""A sandbox's cgroup on the host, where engines look for a pod's use of resources.

It is a folder of the engine's choosing in each hierarchy: of version 1 there is one for each
controller, of version 2 a single one.  What a pod's limits do not leave room for stays outside of
it: kubelet's limit for a pod counts the containers only, unless the RuntimeClass names an overhead,
and a virtual machine that exceeds it would be killed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kata.base.cgroups import enter_folders, expand_path, read_file
from kata.base.errors import KataError
from kata.base.processes import Child, Spawner

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
        self._spawner = spawner
        self._plan = plan

    def spawn(
        self,
        argv: Sequence[str],
        fds: Mapping[int, int],
        environ: Mapping[str, str] | None = None,
    ) -> Child:
        """See Spawner.  The child is moved before it has done anything worth counting."""
        child = self._spawner.spawn(argv, fds, environ)
        try:
            self._move(child.pid, argv[0])
        except KataError:
            child.kill()
            child.wait()
            raise
        return child

    def adopt(self, pid: int) -> None:
        """See Spawner.  Raises KataError; a process that has ended is no error."""
        self._move(pid, f"process {pid}")

    def _move(self, pid: int, what: str) -> None:
        enter_folders(self._plan.folders, pid, what)


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
