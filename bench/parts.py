"""The parts of a run, each of which can be measured alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bench.bed import Bed
from bench.boot import measure_boot
from bench.crowd import measure_crowd
from bench.density import SMALL_MIB, measure_capacity, measure_density, measure_return
from bench.engines import measure_engines
from bench.files import measure_files
from bench.memory import measure_memory
from bench.monitor import measure_monitor
from bench.pods import measure_pods
from bench.restore import measure_restore
from bench.roots import measure_roots
from bench.samples import Figure
from bench.shares import measure_shares
from bench.starts import measure_cold_run, measure_exec, measure_run
from bench.streams import measure_output

# An idle container has settled by then.
_SETTLE_S = 5.0
_SHARED = "bench-shared"


def _measure_starts(bed: Bed) -> Iterator[Figure]:
    cold = bed.configure(enable_template=False)
    yield from measure_cold_run(bed.containerd, bed.rounds, cold)
    yield from measure_boot(bed.rounds, cold)
    yield from measure_run(bed)
    with _container(bed):
        yield from measure_exec(bed.containerd, _SHARED, bed.rounds * 2)


def _measure_restore(bed: Bed) -> Iterator[Figure]:
    (_, copies), (_, warm) = bed.restart_factory(0), bed.restart_factory(1)
    yield from measure_restore(bed.rounds, copies, warm)


def _measure_memory(bed: Bed) -> Iterator[Figure]:
    with _container(bed):
        yield from measure_memory(bed.containerd, _SHARED)
        yield from measure_return(bed.containerd, _SHARED)


def _measure_output(bed: Bed) -> Iterator[Figure]:
    with _container(bed):
        yield from measure_output(bed.containerd, _SHARED, bed.rounds)


def _measure_capacity(bed: Bed) -> Iterator[Figure]:
    yield from measure_capacity(bed.containerd, bed.configure(default_memory=SMALL_MIB))


# In the order in which they are measured.
PARTS: dict[str, Callable[[Bed], Iterator[Figure]]] = {
    "starts": _measure_starts,
    "restore": _measure_restore,
    "memory": _measure_memory,
    "output": _measure_output,
    "crowd": measure_crowd,
    "density": lambda bed: iter(measure_density(bed.containerd)),
    "roots": measure_roots,
    "capacity": _measure_capacity,
    "files": measure_files,
    "shares": measure_shares,
    "engines": measure_engines,
    "pods": lambda bed: iter(measure_pods(bed.rounds)),
    "monitor": lambda bed: measure_monitor(bed.rounds),
}


@contextmanager
def _container(bed: Bed) -> Iterator[None]:
    """Have one idle container, whose machine was a copy."""
    flags = bed.restart_factory(0)
    bed.containerd.start_container(_SHARED, "sleep", "100000", flags=flags)
    try:
        time.sleep(_SETTLE_S)
        yield
    finally:
        bed.containerd.remove(_SHARED)
