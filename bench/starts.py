"""Starting containers and processes through containerd: this runtime against runc, in turn."""

from __future__ import annotations

import itertools

from bench.samples import Figure, compare, time_call, time_pairs
from tests.support.containerd import IMAGE, RUNTIME, Containerd

_RUNC = "io.containerd.runc.v2"
_IDS = itertools.count()


def measure_cold_run(containerd: Containerd, rounds: int, configuration: str) -> list[Figure]:
    """Time ``ctr run --rm busybox true`` with a machine that boots."""
    flags = ["--runtime-config-path", configuration]

    def run() -> None:
        containerd.run(f"bench-cold-{next(_IDS)}", "true", flags=flags)

    times = tuple(time_call(run) for _ in range(rounds))
    return [Figure("ctr run with kata, cold", "s", times)]


def measure_run(containerd: Containerd, rounds: int) -> list[Figure]:
    """Time ``ctr run --rm busybox true`` with a template."""

    def run(runtime: str) -> None:
        containerd.run(f"bench-run-{next(_IDS)}", "true", runtime=runtime)

    times = time_pairs(lambda: run(RUNTIME), lambda: run(_RUNC), rounds)
    return compare(("ctr run with kata", "ctr run with runc"), times, 5)


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
