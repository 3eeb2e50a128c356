"""Many containers on one machine: what each costs, and how many fit."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.memory import list_sizes
from bench.samples import Figure, read_time
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.factory import find_factory, make_template
from tests.support.leaks import find_processes

_MANY = 20
_SETTLE_S = 10.0
_IDLE_S = 60.0
# The smallest machine that the guest image runs in, and when to stop asking for more.
SMALL_MIB = 128
_MOST = 120
_FREED_MIB = 300
# With Debian's kernel.
_LIMIT_MB = 90.0
_FREED_AFTER_S = 10.0
_JIT = "qemu: translated code (emulation only)"


def measure_density(containerd: Containerd) -> list[Figure]:
    """Return the costs of each of twenty idle containers."""
    with _idle_crowd(containerd) as names:
        return [*_measure_sizes(names, _LIMIT_MB), *_measure_idle(names)]


def measure_sizes(
    containerd: Containerd, configuration: str, limit_mb: float | None
) -> list[Figure]:
    """Return the sizes of each of twenty idle containers of another configuration."""
    with _idle_crowd(containerd, "--runtime-config-path", configuration) as names:
        return _measure_sizes(names, limit_mb)


@contextmanager
def _idle_crowd(containerd: Containerd, *flags: str) -> Iterator[list[str]]:
    """Start twenty containers, one after another, that have settled when this yields."""
    names = [f"bench-many-{number:02}" for number in range(_MANY)]
    try:
        for name in names:
            containerd.start_container(name, "sleep", "100000", flags=flags)
        time.sleep(_SETTLE_S)
        yield names
    finally:
        for name in names:
            containerd.remove(name)


def _measure_sizes(names: list[str], limit_mb: float | None) -> list[Figure]:
    samples: dict[str, list[float]] = {}
    sums = []
    for name in names:
        sizes = list_sizes(name)
        for kind, size in sizes.items():
            samples.setdefault(kind, []).append(size)
        sums.append(sum(size for kind, size in sizes.items() if kind != _JIT))
    limits = {"containerd-shim-kata-v2": 5.0}
    return [
        *(
            Figure(f"of {_MANY}: PSS of {kind}", "MB", tuple(found), limits.get(kind))
            for kind, found in sorted(samples.items())
        ),
        Figure(f"of {_MANY}: PSS without translated code", "MB", tuple(sums), limit_mb),
    ]


def _measure_idle(names: list[str]) -> list[Figure]:
    """Return the processor time in percent of a processor, per program; the factory's too."""
    before = dict(_read_times(names))
    time.sleep(_IDLE_S)
    used: dict[str, list[float]] = {}
    for key, time_s in _read_times(names):
        if key in before:
            used.setdefault(key[0], []).append((time_s - before[key]) / _IDLE_S * 100)
    limits = {"containerd-shim-kata-v2": 0.02, "kata-factory": 0.02}
    return [
        Figure(f"idle: processor time of {program}", "%", tuple(shares), limits.get(program))
        for program, shares in sorted(used.items())
    ]


def _read_times(names: list[str]) -> Iterator[tuple[tuple[str, int], float]]:
    processes = [tuple(line.split()) for name in names for line in find_processes(name)]
    processes.append((str(find_factory()), "kata-factory"))
    for pid, program in processes:
        yield (program, int(pid)), read_time(int(pid))


def measure_capacity(containerd: Containerd, configuration: str) -> list[Figure]:
    """Start the smallest machines until one is refused; all have to answer an exec then."""
    flags = ["--runtime-config-path", configuration]
    make_template(containerd, *flags)
    names: list[str] = []
    answered = 0
    try:
        for number in range(_MOST):
            name = f"bench-small-{number:03}"
            names.append(name)
            done = containerd.ctr(
                "run", "-d", "--runtime", RUNTIME, *flags, IMAGE, name, "sleep", "100000",
                check=False,
            )  # fmt: skip
            if done.returncode:
                print(f"refused: {done.stderr.decode().strip()[-200:]}")
                break
        for name in names:
            done = containerd.ctr("task", "exec", "--exec-id", "e", name, "echo", "on", check=False)
            answered += done.stdout == b"on\n"
    finally:
        for name in names:
            containerd.remove(name)
    return [Figure(f"machines of {SMALL_MIB} MB that answer at once", "", (float(answered),))]


def measure_return(containerd: Containerd, name: str) -> list[Figure]:
    """Return how much more memory a machine has after its guest freed what it had allocated."""
    script = f"dd if=/dev/zero of=/dev/shm/f bs=1M count={_FREED_MIB}; rm /dev/shm/f"
    guest = "qemu: guest memory"
    before = list_sizes(name)[guest]
    containerd.exec(name, "sh", "-c", f"mount -o remount,size=400m /dev/shm; {script}")
    peak = list_sizes(name)[guest]
    time.sleep(_FREED_AFTER_S)
    after = list_sizes(name)[guest]
    return [
        Figure(f"memory of {_FREED_MIB} MB in use, at the end", "MB", (peak - before,)),
        Figure("of that still held 10 s after it was freed", "MB", (after - before,), 40.0),
    ]
