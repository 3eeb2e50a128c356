"""Measure and compare, all in one run on one machine: ``make bench ARGS="--rounds 7 --json F"``."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from bench.boot import measure_boot
from bench.density import (
    SMALL_MIB,
    measure_capacity,
    measure_crowd,
    measure_density,
    measure_return,
)
from bench.memory import measure_memory
from bench.pods import measure_pods
from bench.samples import Figure
from bench.starts import measure_cold_run, measure_exec, measure_run
from bench.streams import measure_output
from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import make_template
from tools import busybox_image

# An idle container has settled by then.
_SETTLE_S = 5.0
_SHARED = "bench-shared"


def main() -> None:
    """Print every figure, and write them as JSON."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each command")
    parser.add_argument("--json", default="build/bench.json", help="where the figures go")
    options = parser.parse_args()
    figures: list[Figure] = []

    def add(more: list[Figure]) -> None:
        figures.extend(more)
        for figure in more:
            print(figure.render(), flush=True)
        # After each part: a later one that fails must not cost what was measured.
        content = json.dumps([figure.to_json() for figure in figures], indent=2)
        Path(options.json).write_text(f"{content}\n")

    with tempfile.TemporaryDirectory(prefix="kata-bench-") as folder:
        containerd = Containerd(Path(folder))
        containerd.start()
        try:
            containerd.ctr("image", "import", busybox_image.cached_image(folder))
            cold = write_configuration(Path(folder) / "cold.toml", enable_template=False)
            add(measure_cold_run(containerd, options.rounds, cold))
            add(measure_boot(options.rounds, cold))
            make_template(containerd)
            add(measure_run(containerd, options.rounds * 2))
            containerd.start_container(_SHARED, "sleep", "100000")
            time.sleep(_SETTLE_S)
            add(measure_memory(containerd, _SHARED))
            add(measure_exec(containerd, _SHARED, options.rounds * 2))
            add(measure_output(containerd, _SHARED, options.rounds))
            add(measure_return(containerd, _SHARED))
            containerd.remove(_SHARED)
            add(measure_crowd(containerd))
            add(measure_density(containerd))
            small = write_configuration(Path(folder) / "small.toml", default_memory=SMALL_MIB)
            add(measure_capacity(containerd, small))
        finally:
            containerd.remove(_SHARED)
            containerd.stop()
    add(measure_pods(options.rounds))
    print(f"as JSON: {options.json}")


if __name__ == "__main__":
    main()
