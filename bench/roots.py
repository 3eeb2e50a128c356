"""Debian's kernel and our own, initrd and image, side by side: ``python -m bench.roots``.

Needs ``make kernel``.  What each costs when it boots, as a template, and as one of twenty copies.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from bench.boot import boot_shim
from bench.density import measure_sizes
from bench.samples import Figure
from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import end_factory, make_template
from tests.support.guests import GUESTS
from tools import busybox_image

_MB = 1e6
_BLOCK_BYTES = 512


def main() -> None:
    """Print every figure, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="bench.roots", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted boots of each")
    parser.add_argument("--json", default="build/bench-roots.json", help="where the figures go")
    options = parser.parse_args()
    figures: list[Figure] = []
    end_factory()
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
        containerd = Containerd(Path(folder))
        containerd.start()
        try:
            containerd.ctr("image", "import", busybox_image.cached_image(folder))
            for figure in measure_roots(containerd, Path(folder), options.rounds):
                print(figure.render(), flush=True)
                figures.append(figure)
        finally:
            containerd.stop()
    Path(options.json).write_text(json.dumps([figure.to_json() for figure in figures], indent=2))


def measure_roots(containerd: Containerd, folder: Path, rounds: int) -> list[Figure]:
    """Return the figures of each guest: boots in turn, then templates and copies."""
    # Copies only: a machine that waits for a sandbox would be one process more.
    files = {
        name: (
            write_configuration(folder / f"cold{number}.toml", enable_template=False, **keys),
            write_configuration(folder / f"copy{number}.toml", vm_cache_number=0, **keys),
        )
        for number, (name, keys) in enumerate(GUESTS.items())
    }
    boots: dict[str, list[float]] = {name: [] for name in files}
    for number in range(rounds + 1):
        for name, (cold, _) in files.items():
            took = boot_shim(cold)
            if number:  # the first one reads the files from the disk
                boots[name].append(took)
    figures = [
        Figure(f"{name}: shim's exec to agent, cold", "s", tuple(times))
        for name, times in boots.items()
    ]
    for name, (_, copy) in files.items():
        template = make_template(containerd, "--runtime-config-path", copy)
        content = os.stat(f"{template}/memory").st_blocks * _BLOCK_BYTES
        figures.append(Figure(f"{name}: template's memory", "MB", (content / _MB,)))
        figures += [
            Figure(f"{name}: {figure.name}", figure.unit, figure.samples)
            for figure in measure_sizes(containerd, copy)
        ]
    return figures


if __name__ == "__main__":
    main()
