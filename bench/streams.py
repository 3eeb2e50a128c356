"""What a container writes on its way to the client: speed, and what it costs the shim."""

from __future__ import annotations

from functools import partial

from bench.samples import Figure, read_time, time_call
from tests.support.containerd import IMAGE, Containerd
from tests.support.sandboxes import SHIM, find_pids

_RUNC = "io.containerd.runc.v2"
_MB = 64
_COMMAND = ("dd", "if=/dev/zero", "bs=65536", f"count={_MB * 10**6 // 65536}")


def measure_output(containerd: Containerd, name: str, rounds: int) -> list[Figure]:
    """Return the speed of an exec's standard output, kata and runc in turn, and kata's cost."""
    other = "bench-output-runc"
    containerd.ctr("run", "--runtime", _RUNC, "-d", IMAGE, other, "sleep", "100000")
    try:
        speeds: dict[str, list[float]] = {name: [], other: []}
        costs = []
        for _ in range(rounds):
            before = _used(name)
            for box, found in speeds.items():
                call = partial(containerd.exec, box, *_COMMAND)
                found.append(_MB / time_call(call))
            costs.append((_used(name) - before) / _MB * 1000)
    finally:
        containerd.remove(other)
    return [
        Figure("standard output with kata", "MB/s", tuple(speeds[name])),
        Figure("standard output with runc", "MB/s", tuple(speeds[other])),
        Figure("processor time of the shim for its output", "s/GB", tuple(costs)),
    ]


def _used(name: str) -> float:
    (pid,) = find_pids(name, SHIM)
    return read_time(pid)
