"""Debian's kernel and our own, initrd and image, side by side.

What each costs when it boots, as a template, and as one of twenty copies.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

from bench.bed import Bed
from bench.boot import start_shim
from bench.density import measure_sizes
from bench.samples import Figure
from tests.support.factory import end_factory, make_template
from tests.support.guests import GUESTS

_MB = 1e6
_BLOCK_BYTES = 512
# Of twenty, without QEMU's translated code.
_LIMITS = {"Debian's kernel, initrd": 90.0, "own kernel, image": 60.0}


def measure_roots(bed: Bed) -> Iterator[Figure]:
    """Return the figures of each guest: boots in turn, then templates and copies."""
    end_factory()
    # Copies only: a machine that waits for a sandbox would be one process more.
    files = {
        name: (
            bed.configure(enable_template=False, **keys),
            bed.configure(vm_cache_number=0, **keys),
        )
        for name, keys in GUESTS.items()
    }
    boots: dict[str, list[float]] = {name: [] for name in files}
    for number in range(bed.rounds + 1):
        for name, (cold, _) in files.items():
            took_s = start_shim(cold).took_s
            if number:  # the first one reads the files from the disk
                boots[name].append(took_s)
    for name, times in boots.items():
        yield Figure(f"{name}: shim's exec to agent, cold", "s", tuple(times))
    for name, (_, copy) in files.items():
        template = make_template(bed.containerd, "--runtime-config-path", copy)
        content = os.stat(f"{template}/memory").st_blocks * _BLOCK_BYTES
        yield Figure(f"{name}: template's memory", "MB", (content / _MB,))
        for figure in measure_sizes(bed.containerd, copy, _LIMITS.get(name)):
            yield replace(figure, name=f"{name}: {figure.name}")
