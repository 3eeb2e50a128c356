"""Starting containers and processes through containerd: this runtime against runc, in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from bench.bed import Bed
from bench.samples import Figure, compare, time_call, time_pairs
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.factory import wait_for_spares

_RUNC = "io.containerd.runc.v2"
_IDS = itertools.count()


def measure_cold_run(containerd: Containerd, rounds: int, configuration: str) -> list[Figure]:
    """Time ``ctr run --rm busybox true`` with a machine that boots."""
    flags = ["--runtime-config-path", configuration]

    def run() -> None:
        containerd.run(f"bench-cold-{next(_IDS)}", "true", flags=flags)

    times = tuple(time_call(run) for _ in range(rounds))
    return [Figure("ctr run with kata, cold", "s", times)]


def measure_run(bed: Bed) -> list[Figure]:
    """Time ``ctr run --rm busybox true`` as a copy of a template, and with a machine that waits."""
    copies = bed.restart_factory(0)
    figures = _measure_run(bed, "copy", copies, lambda: None)
    warm = bed.restart_factory(1)
    return figures + _measure_run(bed, "warm machine", warm, lambda: wait_for_spares(1))


def _measure_run(
    bed: Bed, kind: str, flags: list[str], prepare: Callable[[], object]
) -> list[Figure]:
    def run(runtime: str, flags: list[str]) -> None:
        bed.containerd.run(f"bench-run-{next(_IDS)}", "true", runtime=runtime, flags=flags)

    times = time_pairs(lambda: run(RUNTIME, flags), lambda: run(_RUNC, []), bed.rounds * 2, prepare)
    return compare((f"ctr run with kata, {kind}", f"ctr run with runc, beside {kind}"), times, 5)


def measure_exec(containerd: Containerd, name: str, rounds: int) -> list[Figure]:
    """Time ``ctr task exec true`` in running containers."""
    other = "bench-exec-runc"
    containerd.ctr("run", "--runtime", _RUNC, "-d", IMAGE, other, "sleep", "100000")
    try:
        times = time_pairs(
            lambda: containerd.exec(name, "true"), lambda: containerd.exec(other, "true"), rounds
        )
    finally:
        containerd.remove(other)
    return compare(("exec with kata", "exec with runc"), times, 4)
