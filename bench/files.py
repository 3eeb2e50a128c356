"""Files in a container, beside plain QEMU with virtiofsd alone, on the same file systems.

Both guests have the same kernel, initrd, processors and memory; their root is a snapshot of the
same image, by containerd's overlay, and their disk the same loop device.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import fio
from bench.bed import Bed
from bench.plain import DISK, Daemon, run_plain
from bench.samples import Figure
from kata.config.load import load_config
from tests.support.containerd import Containerd
from tools.setup import CONFIGURATION

_TIMEOUT_S = 300.0
_RUNTIME_S = 5
_LEAST = 0.9
_SHARE_JOBS = (*fio.DIRECT_JOBS, *fio.CACHED_JOBS)
_DISK_JOBS = fio.DIRECT_JOBS
_FILE = "/data/file"


@dataclass(frozen=True, slots=True)
class Rates:
    """What one run of everything gave: MB/s, IOPS, and seconds."""

    share: dict[str, float]
    disk: dict[str, float]
    walk: dict[str, float]


def measure_files(bed: Bed) -> Iterator[Figure]:
    """Run all jobs in turn in a container and in plain QEMU."""
    flags = bed.restart_factory(0)
    daemon = _default_daemon()
    with mounted_image(bed.containerd, bed.folder) as root, _disk(bed.folder) as disk:
        pairs = []
        for number in range(bed.rounds + 1):
            kata = _run_kata(bed.containerd, f"bench-files-{number}", flags, disk)
            text = run_plain(daemon, root, _render(DISK), disk)
            pairs.append((_parse(kata), _parse(text)))
    del pairs[0]  # by then the host has the image in its page cache
    for job in _SHARE_JOBS:
        kata_rates = tuple(kata.share[job.name] for kata, _ in pairs)
        plain_rates = tuple(plain.share[job.name] for _, plain in pairs)
        yield from _compare(job.name, "root file system", job.unit, kata_rates, plain_rates)
    for job in _DISK_JOBS:
        kata_rates = tuple(kata.disk[job.name] for kata, _ in pairs)
        plain_rates = tuple(plain.disk[job.name] for _, plain in pairs)
        yield from _compare(job.name, "block device", job.unit, kata_rates, plain_rates)
    for step in fio.WALKS:
        kata_times = tuple(kata.walk[step] for kata, _ in pairs)
        plain_times = tuple(plain.walk[step] for _, plain in pairs)
        yield from _compare(step, "root file system", "s", kata_times, plain_times)


def _compare(
    what: str, where: str, unit: str, kata: tuple[float, ...], plain: tuple[float, ...]
) -> Iterator[Figure]:
    """Yield both and how fast the one is beside the other."""
    yield Figure(f"{what}: {where}, kata", unit, kata)
    yield Figure(f"{what}: {where}, plain QEMU", unit, plain)
    speeds = tuple(b / a if unit == "s" else a / b for a, b in zip(kata, plain, strict=True))
    yield Figure(f"kata's speed to plain QEMU's: {what}, {where}", "", speeds, least=_LEAST)


def _render(disk: str) -> str:
    return "\n".join(
        (
            fio.render_walk("/data"),
            fio.render_script(_FILE, _SHARE_JOBS, _RUNTIME_S),
            fio.render_script(disk, _DISK_JOBS, _RUNTIME_S),
        )
    )


def _parse(text: str) -> Rates:
    share, disk = fio.parse_output(text, _SHARE_JOBS, _DISK_JOBS)
    return Rates(share, disk, fio.parse_walk(text))


def _run_kata(containerd: Containerd, name: str, flags: list[str], disk: str) -> str:
    command = [*fio.SHELL, _render(disk)]
    more = [*flags, "--device", disk]
    done = containerd.run(name, *command, flags=more, image=fio.NAME, timeout=_TIMEOUT_S)
    return done.stdout.decode()


def _default_daemon() -> Daemon:
    """Return the virtiofsd that kata uses, with the same cache mode."""
    hypervisor = load_config(CONFIGURATION, {}).hypervisor
    return Daemon(
        hypervisor.virtio_fs_daemon,
        cache=hypervisor.virtio_fs_cache,
        queue_size=hypervisor.virtio_fs_queue_size,
    )


@contextmanager
def mounted_image(containerd: Containerd, folder: Path) -> Iterator[str]:
    """Have fio's image, and a snapshot of it mounted on the host, as a container's would be."""
    containerd.ctr("image", "import", fio.cached_image())
    root = folder / "fio"
    root.mkdir()
    containerd.ctr("image", "mount", "--rw", fio.NAME, str(root))
    try:
        yield str(root)
    finally:
        containerd.ctr("image", "unmount", "--rm", str(root))
        root.rmdir()


@contextmanager
def _disk(folder: Path) -> Iterator[str]:
    """Have a loop device on a file."""
    file = folder / "disk"
    with open(file, "xb") as content:  # a hole would be read faster and written slower
        for _ in range(fio.DISK_MIB):
            content.write(bytes(1 << 20))
        os.fsync(content.fileno())
    done = subprocess.run(
        ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, check=True
    )
    device = done.stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        file.unlink()
