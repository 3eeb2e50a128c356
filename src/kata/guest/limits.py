"""A container's cgroup (version 2): made, given its limits, removed.

The specification speaks the language of version 1; what its numbers mean here is runc's and crun's
agreement (docs of runc: cgroup-v2.md).
"""

from __future__ import annotations

import os
import select
import time

from kata.base.errors import Code, KataError
from kata.guest import cgroup, devicefilter, files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX = "max"
# The ranges of cpu.shares and cpu.weight.
_MIN_SHARES, _SHARES = 2, 262142
_WEIGHTS = 9999
_PERIOD_US = 100_000
# What only crun knows to do, or to refuse.
_CRUNS = ("network", "rdma")
_CRUNS_MEMORY = (
    "kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy", "checkBeforeUpdate",
)  # fmt: skip
_CRUNS_CPU = ("realtimePeriod", "realtimeRuntime")
# The ranges of the specification's weight of block I/O and of io.weight, and who obeys them: the
# scheduler bfq where its module is loaded, else the controller (runc's order).
_MIN_BLOCK_WEIGHT, _BLOCK_WEIGHTS = 10, 990
_BFQ_WEIGHT, _IO_WEIGHT = "io.bfq.weight", "io.weight"
_EBUSY = 16
_ENDED_S = 10.0


def find_obstacle(resources: dict[str, Any]) -> str:
    """Return what of a specification's resources this cannot do; empty when it can do all."""
    found = [key for key in _CRUNS if resources.get(key)]
    found += [key for key in _CRUNS_MEMORY if (resources.get("memory") or {}).get(key)]
    found += [key for key in _CRUNS_CPU if (resources.get("cpu") or {}).get(key)]
    block = resources.get("blockIO") or {}
    found += [f"blockIO.{key}" for key in block if block[key] and key != "weight"]
    return ", ".join(found)


def make(path: str, resources: dict[str, Any]) -> tuple[str, str]:
    """Make a cgroup with limits; ``path`` is the specification's.

    Returns its folder, and the limit that this kernel lacks (see ``update``).  Raises
    KataError; nothing is left then but folders above.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        raise KataError(f"make cgroup {path!r}: no such path", Code.INVALID_ARGUMENT)
    folder = cgroup.ROOT
    for part in parts:
        _hand_down(folder)
        folder = f"{folder}/{part}"
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            pass
    try:
        missing = update(folder, resources)
        rules = resources.get("devices") or []
        if rules:
            devicefilter.restrict(folder, rules)
    except OSError as error:
        remove(folder)
        raise KataError(f"make cgroup {path}: {error.strerror or error}", Code.UNKNOWN) from error
    except KataError:
        remove(folder)
        raise
    return folder, missing


def update(folder: str, resources: dict[str, Any]) -> str:
    """Set limits.  Raises KataError that names the one which cannot be.

    A weight of block I/O is no promise: where the kernel knows none its name is returned, for a
    warning.
    """
    for name, value in _list_settings(resources):
        try:
            files.control(f"{folder}/{name}", value)
        except FileNotFoundError as error:
            raise KataError(
                f"set limit {name}: this kernel has no such limit", Code.UNKNOWN
            ) from error
        except OSError as error:
            raise KataError(
                f"set limit {name} to {value}: {error.strerror}", Code.UNKNOWN
            ) from error
    weight = (resources.get("blockIO") or {}).get("weight")
    return _set_block_weight(folder, int(weight)) if weight else ""


def remove(folder: str) -> None:
    """Kill what runs in a cgroup and those below, and remove them; none is no error.

    Raises DEADLINE_EXCEEDED when a process does not end.
    """
    if not os.path.isdir(folder):
        return
    cgroup.kill(folder)
    deadline = time.monotonic() + _ENDED_S
    while True:
        try:
            _remove_tree(folder)
            return
        except OSError as error:
            if error.errno != _EBUSY or time.monotonic() > deadline:
                raise KataError(
                    f"remove cgroup {folder}: {error.strerror}", Code.DEADLINE_EXCEEDED
                ) from error
        _wait_change(folder, deadline)


def _set_block_weight(folder: str, weight: int) -> str:
    """Return the name of the limit that the kernel lacks, empty when it was set."""
    wide = 1 + max(0, weight - _MIN_BLOCK_WEIGHT) * _WEIGHTS // _BLOCK_WEIGHTS
    for name, value in ((_BFQ_WEIGHT, weight), (_IO_WEIGHT, wide)):
        if not os.path.exists(f"{folder}/{name}"):
            continue
        try:
            files.control(f"{folder}/{name}", str(value))
        except OSError as error:
            raise KataError(
                f"set limit {name} to {value}: {error.strerror}", Code.UNKNOWN
            ) from error
        return ""
    return _IO_WEIGHT


def _hand_down(folder: str) -> None:
    """Let cgroups below a folder have all controllers that it has."""
    path = f"{folder}/cgroup.subtree_control"
    known = (files.find(path) or "").split()
    names = (files.find(f"{folder}/cgroup.controllers") or "").split()
    missing = [f"+{name}" for name in names if name not in known]
    if not missing:
        return
    try:
        files.control(path, " ".join(missing))
        return
    except OSError:
        pass  # one that cannot be handed down keeps the others back
    for word in missing:
        try:
            files.control(path, word)
        except OSError:
            pass  # a limit that needs it will say so


def _list_settings(resources: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    memory, cpu = resources.get("memory") or {}, resources.get("cpu") or {}
    if (limit := memory.get("limit")) is not None:
        found.append(("memory.max", _limit(limit)))
    if (swap := memory.get("swap")) is not None:
        if swap >= 0 and limit is not None and limit >= 0:
            swap -= limit
        if swap or limit:
            found.append(("memory.swap.max", _limit(swap)))
    if (low := memory.get("reservation")) is not None:
        found.append(("memory.low", _limit(low)))
    if shares := cpu.get("shares"):
        weight = 1 + (int(shares) - _MIN_SHARES) * _WEIGHTS // _SHARES
        found.append(("cpu.weight", str(max(1, min(weight, _WEIGHTS + 1)))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        words = _MAX if not quota or quota < 0 else str(quota)
        found.append(("cpu.max", f"{words} {period or _PERIOD_US}"))
    for key, name in (("burst", "cpu.max.burst"), ("idle", "cpu.idle")):
        if cpu.get(key) is not None:
            found.append((name, str(cpu[key])))
    for key, name in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            found.append((name, str(cpu[key])))
    if pids := (resources.get("pids") or {}).get("limit"):
        found.append(("pids.max", _limit(pids)))
    found.extend(
        (f"hugetlb.{page['pageSize']}.max", str(page["limit"]))
        for page in resources.get("hugepageLimits") or []
    )
    found.extend((name, str(value)) for name, value in (resources.get("unified") or {}).items())
    return found


def _limit(value: int) -> str:
    return _MAX if value < 0 else str(value)


def _remove_tree(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            _remove_tree(entry.path)
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        pass


def _wait_change(folder: str, deadline: float) -> None:
    """Return when the kernel tells of a change in a cgroup's population, or soon."""
    try:
        fd = os.open(f"{folder}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.read(fd, 4096)
        poller = select.poll()
        poller.register(fd, select.POLLPRI)
        poller.poll(min(100.0, max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(fd)
