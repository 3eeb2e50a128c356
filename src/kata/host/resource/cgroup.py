"""A sandbox's cgroup on the host, where engines look for a pod's use of resources.

It is a folder of the engine's choosing in each hierarchy: of version 1 there is one for each
controller, of version 2 a single one.  What a pod's limits do not leave room for stays outside of
it: kubelet's limit for a pod counts the containers only, unless the RuntimeClass names an overhead,
and a virtual machine that exceeds it would be killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kata.base.errors import Code, KataError
from kata.base.mountinfo import Mount
from kata.base.processes import Child, Spawner

# Processes that have just been reaped hold their cgroup for a moment.
_REMOVE_S = 2.0
_REMOVE_STEP_S = 0.01
_MEMORY_LIMITS = ("memory.limit_in_bytes", "memory.max")
# A new folder of cpuset (version 1) takes no process before these are set.
_CPUSET = ("cpuset.cpus", "cpuset.mems")


@dataclass(frozen=True, slots=True)
class HostCgroupPlan:
    """The folders to use, and why some of the hierarchies have none (empty: all have)."""

    folders: tuple[str, ...]
    left_out: str = ""


def find_hierarchies(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return where the host's hierarchies are mounted; the one of version 2 only if it is alone."""
    first = [m.point for m in mounts if m.fstype == "cgroup" and m.root == "/"]
    # A named hierarchy has no controller, and belongs to who named it (systemd).
    first = [point for point in first if not os.path.basename(point).startswith("systemd")]
    return tuple(first) or tuple(m.point for m in mounts if m.fstype == "cgroup2")[:1]


def expand_path(path: str) -> str:
    """Return a cgroup's path below the root of a hierarchy; systemd's slice:prefix:name too."""
    if path.count(":") != 2:
        return "/" + path.strip("/")
    slice_, prefix, name = path.split(":")
    parts = slice_.removesuffix(".slice").split("-")
    folders = ["-".join(parts[: n + 1]) + ".slice" for n in range(len(parts))]
    return "/" + "/".join([*folders, f"{prefix}-{name}.scope"])


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


def create(plan: HostCgroupPlan) -> list[str]:
    """Make the folders and return those that were not there.  Raises KataError; then none is."""
    made: list[str] = []
    try:
        for folder in plan.folders:
            if not os.path.isdir(folder):
                _make(folder)
                made.append(folder)
        return made
    except OSError as error:
        remove(made)
        raise KataError(
            f"make cgroup {error.filename}: {error.strerror}", Code.FAILED_PRECONDITION
        ) from error


def remove(folders: Sequence[str]) -> None:
    """Remove the folders once their processes have ended.  Raises KataError after the last."""
    failures = []
    deadline = time.monotonic() + _REMOVE_S
    for folder in folders:
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(_REMOVE_STEP_S)
                    continue
                failures.append(f"{folder}: {error.strerror}")
            break
    if failures:
        raise KataError(f"remove cgroups: {'; '.join(failures)}", Code.INTERNAL)


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
        try:
            for folder in self._plan.folders:
                _write(f"{folder}/cgroup.procs", str(pid))
        except ProcessLookupError:
            pass  # whoever waits for it will say why
        except OSError as error:
            raise KataError(
                f"move {what} into cgroup {error.filename}: {error.strerror}",
                Code.FAILED_PRECONDITION,
            ) from error


def _find_limit(hierarchy: str, below: str) -> tuple[int | None, str]:
    """Return the smallest memory limit on the way to a folder, and where it is set."""
    smallest, where = None, ""
    folder = hierarchy + below
    while len(folder) > len(hierarchy):
        for name in _MEMORY_LIMITS:
            text = _read(f"{folder}/{name}")
            if text.isdecimal() and (smallest is None or int(text) < smallest):
                smallest, where = int(text), folder
        folder = os.path.dirname(folder)
    return smallest, where


def _make(folder: str) -> None:
    """Make a folder and those above it, which give it their processors and controllers."""
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _make(parent)
    controllers = _read(f"{parent}/cgroup.controllers").split()
    if controllers:
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
    os.mkdir(folder)
    for name in _CPUSET:
        if os.path.exists(f"{parent}/{name}") and not _read(f"{folder}/{name}"):
            inherited = _read(f"{parent}/{name}")
            if inherited:
                _write(f"{folder}/{name}", inherited)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
