"""Which virtiofsd, and with which options: plain QEMU with each, the same jobs."""

from __future__ import annotations

from collections.abc import Iterator

from bench import fio
from bench.bed import Bed
from bench.files import mounted_image
from bench.plain import Daemon, run_plain
from bench.samples import Figure
from kata.config.load import load_config
from tests.support.machine_versions import get_virtiofsd
from tools.setup import CONFIGURATION

_RUNTIME_S = 3
_JOBS = (*fio.DIRECT_JOBS, *fio.CACHED_JOBS)
_C = "/usr/lib/qemu/virtiofsd"


def measure_shares(bed: Bed) -> Iterator[Figure]:
    """Measure each choice in turn, round by round."""
    daemons = list_daemons()
    script = f"{fio.render_walk('/data')}\n{fio.render_script('/data/file', _JOBS, _RUNTIME_S)}"
    rates: dict[tuple[str, str], list[float]] = {}
    with mounted_image(bed.containerd, bed.folder) as root:
        for _ in range(bed.rounds):
            for name, daemon in daemons.items():
                text = run_plain(daemon, root, script)
                (found,) = fio.parse_output(text, _JOBS)
                for what, rate in {**found, **fio.parse_walk(text)}.items():
                    rates.setdefault((what, name), []).append(rate)
    units = {**{job.name: job.unit for job in _JOBS}, **dict.fromkeys(fio.WALKS, "s")}
    for what, unit in units.items():
        for name in daemons:
            yield Figure(f"{what}: {name}", unit, tuple(rates[what, name]))


def list_daemons() -> dict[str, Daemon]:
    """Return what is compared; the first is the one of Debian 12's QEMU."""
    queue_size = load_config(CONFIGURATION, {}).hypervisor.virtio_fs_queue_size
    rust = get_virtiofsd("trixie")
    return {
        "C, auto": Daemon(_C, queue_size=queue_size),
        "C, never": Daemon(_C, cache="never", queue_size=queue_size),
        "C, always": Daemon(_C, cache="always", queue_size=queue_size),
        "C, auto, 1 thread": Daemon(_C, threads=1, queue_size=queue_size),
        "C, auto, 64 threads": Daemon(_C, threads=64, queue_size=queue_size),
        "C, auto, queue of 128": Daemon(_C, queue_size=128),
        "Rust 1.13, auto": Daemon(rust, queue_size=queue_size),
        "Rust 1.13, never": Daemon(rust, cache="never", queue_size=queue_size),
        "Rust 1.13, metadata": Daemon(rust, cache="metadata", queue_size=queue_size),
        "Rust 1.13, always": Daemon(rust, cache="always", queue_size=queue_size),
        "Rust 1.13, auto, 1 thread": Daemon(rust, threads=1, queue_size=queue_size),
        "Rust 1.13, auto, 64 threads": Daemon(rust, threads=64, queue_size=queue_size),
        "Rust 1.14, auto": Daemon(get_virtiofsd("sid"), queue_size=queue_size),
    }
