"""Twenty containers started at once: when each of them runs, beside one alone."""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bench.bed import Bed
from bench.samples import Figure
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.factory import wait_for_spares

_MANY = 20
_ALONE = 5
_LIMIT = 4.0
# One after the other, each at the lowest priority.
_FILL_S = 300.0


def measure_crowd(bed: Bed) -> Iterator[Figure]:
    """Start one with a warm machine, then crowds: as copies, and with twenty machines that wait."""
    flags = bed.restart_factory(1)
    alone: list[float] = []
    for number in range(_ALONE * bed.rounds):
        wait_for_spares(1)
        with _running(bed.containerd, [f"bench-alone-{number}"], flags) as times:
            alone += times
    yield Figure("one container, warm machine: time to running", "s", tuple(alone))
    middle = statistics.median(alone)
    for spares, kind in ((0, "pool empty"), (_MANY, "pool filled")):
        flags = bed.restart_factory(spares)
        crowds = []
        for number in range(bed.rounds):
            wait_for_spares(spares, _FILL_S)
            names = [f"bench-crowd-{number}-{index:02}" for index in range(_MANY)]
            with _running(bed.containerd, names, flags) as times:
                crowds.append(times)
        yield from _compare(crowds, kind, middle)


def _compare(crowds: list[list[float]], kind: str, alone: float) -> Iterator[Figure]:
    """Return each crowd's percentiles, and how they stand to the time of one alone."""
    middles = tuple(statistics.median(times) for times in crowds)
    lates = tuple(sorted(times)[int(0.95 * len(times)) - 1] for times in crowds)
    name = f"{_MANY} at once, {kind}"
    yield Figure(f"{name}: p50 of time to running", "s", middles)
    yield Figure(f"{name}: p95 of time to running", "s", lates)
    ratios = tuple(late / alone for late in lates)
    yield Figure(f"ratio of p95 to one alone, {kind}", "", ratios, _LIMIT)


@contextmanager
def _running(
    containerd: Containerd, names: Sequence[str], flags: Sequence[str]
) -> Iterator[list[float]]:
    """Start containers at the same time; yields the seconds after which each ran."""
    began = time.perf_counter()
    clients = [
        subprocess.Popen(
            containerd.command(
                "run", "-d", "--runtime", RUNTIME, *flags, IMAGE, name, "sleep", "100000"
            )
        )
        for name in names
    ]
    times: list[float] = []
    try:
        while len(times) < len(names):
            for client in [client for client in clients if client.poll() is not None]:
                if client.returncode:
                    raise RuntimeError(f"ctr run failed with {client.returncode}")
                times.append(time.perf_counter() - began)
                clients.remove(client)
            time.sleep(0.005)
        yield times
    finally:
        for client in clients:
            client.wait()
        for name in names:
            containerd.remove(name)
