"""kata-runtime in runc's place: Podman with one and the other, and verbs beside many containers."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.bed import Bed
from bench.samples import Figure, compare, time_call, time_pairs
from tests.support.debian_root import debian_root
from tests.support.factory import wait_for_spares
from tests.support.netns import Netns
from tests.support.runtime import (
    PROGRAM,
    Bundle,
    Runtime,
    unmount_below,
    unpack_busybox,
    wait_until,
)
from tools.busybox_image import busybox_layer

_IMAGE = "localhost/busybox"
_SYSTEMD = "localhost/systemd"
_SYSTEMD_LIMIT_S = 30.0
_COUNT = 50
# crun 1.8 refuses hosts with cgroups of both versions, and both want limits that root has here.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000")
_VERB_LIMIT_S = 0.06


def measure_engines(bed: Bed) -> Iterator[Figure]:
    """Time ``podman run --rm busybox true``, and ``state``, ``kill 0`` and ``list``."""
    configuration = bed.restart_factory(1)[-1]
    with _podman(bed.folder, configuration) as (base, kata):
        yield from _measure_podman(partial(_call, base), kata, bed.rounds)
        yield _measure_systemd([*base, "--runtime", kata], bed.rounds)
    with tempfile.TemporaryDirectory(prefix="kata-bench-oci-") as folder:
        runtime = Runtime(Path(folder), configuration)
        try:
            yield from _measure_verbs(runtime, Path(folder), bed.rounds)
        finally:
            for name in reversed(runtime.list_names()):
                runtime.call("delete", "--force", name)


def _measure_podman(
    call: Callable[[str], subprocess.CompletedProcess[bytes]], kata: str, rounds: int
) -> Iterator[Figure]:
    def run(runtime: str) -> None:
        done = call(runtime)
        assert done.returncode == 0, done.stderr

    times = time_pairs(
        lambda: run(kata), lambda: run("runc"), rounds * 2, lambda: wait_for_spares(1)
    )
    yield from compare(("podman run with kata", "podman run with runc"), times, None)
    if call("crun").returncode == 0:
        crun = tuple(time_call(lambda: run("crun")) for _ in range(rounds * 2))
        yield Figure("podman run with crun", "s", crun)


@contextmanager
def _podman(folder: Path, configuration: str) -> Iterator[tuple[list[str], str]]:
    """Have Podman with an image; yields its command line, and kata's program."""
    netns = Netns()
    layer, wrapper = folder / "layer.tar", folder / "kata-runtime"
    layer.write_bytes(busybox_layer())
    wrapper.write_text(f'#!/bin/sh\nexec {PROGRAM} --config {configuration} "$@"\n')
    wrapper.chmod(0o755)
    base = [
        *("nsenter", f"--net={netns.path}", "--", "podman", "--root", f"{folder}/podman"),
        *("--runroot", f"{folder}/podman-run", "--tmpdir", f"{folder}/podman-tmp"),
        *("--cgroup-manager", "cgroupfs", "--events-backend", "file"),
        *("--storage-driver", "overlay"),
    ]
    subprocess.run([*base, "import", str(layer), _IMAGE], check=True, capture_output=True)

    try:
        yield base, str(wrapper)
    finally:
        wait_until(lambda: _remove_storage(folder / "podman"))
        netns.delete()


def _call(base: list[str], runtime: str) -> subprocess.CompletedProcess[bytes]:
    flags = ("--rm", "--network", "none", *_LIMITS)
    argv = [*base, "--runtime", runtime, "run", *flags, _IMAGE, "true"]
    return subprocess.run(argv, capture_output=True, check=False, timeout=60)


def _measure_systemd(podman: list[str], rounds: int) -> Figure:
    """Time from the return of ``podman run --systemd=always`` until systemd is up."""

    def call(*words: str) -> None:
        subprocess.run([*podman, *words], check=True, capture_output=True, timeout=300)

    call("import", debian_root(("systemd", "systemd-sysv", "dbus"), "minbase"), _SYSTEMD)
    times = []
    for _ in range(rounds):
        flags = ("--detach", "--name", "systemd", "--network", "none", "--systemd=always")
        call("run", *flags, _SYSTEMD, "/sbin/init")
        bus = "until test -S /run/systemd/private; do sleep 0.5; done"
        wait = f"{bus}; systemctl is-system-running --wait"
        times.append(time_call(partial(call, "exec", "systemd", "sh", "-c", wait)))
        call("rm", "--force", "--time", "60", "systemd")
    return Figure("systemd is up", "s", tuple(times), _SYSTEMD_LIMIT_S)


def _remove_storage(folder: Path) -> bool:
    """Return whether it is gone; what Podman runs when a container has ended mounts it again."""
    unmount_below(str(folder))
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _measure_verbs(runtime: Runtime, folder: Path, rounds: int) -> Iterator[Figure]:
    """Time verbs beside containers that share one machine."""
    rootfs = folder / "rootfs"
    unpack_busybox(rootfs)
    numbers = itertools.count()

    def create(network: str) -> str:
        name = f"bench-oci-{os.getpid()}-{next(numbers)}"
        bundle = Bundle(folder / name, rootfs)
        for namespace in bundle.spec["linux"]["namespaces"]:
            if namespace["type"] == "network" and network:
                namespace["path"] = network
        runtime.create(bundle.run("sleep", "100000"), name)
        return name

    first = create("")
    network = f"/proc/{runtime.pid(first)}/ns/net"
    for _ in range(_COUNT - 1):
        create(network)
    for words in (("state", first), ("kill", first, "0"), ("list",)):
        call = partial(runtime.call, *words)
        times = tuple(time_call(call) for _ in range(rounds * 5))
        yield Figure(f"kata-runtime {words[0]}, {_COUNT} containers", "s", times, _VERB_LIMIT_S)
