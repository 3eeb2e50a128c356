"""Draw the figures of a run: ``make plots``, after ``make bench``."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend has to be chosen before

# File: title, unit, and the parts of a run whose figures it shows.
_PLOTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "ratios": (
        "Against runc, and against the best that there is",
        "",
        ("starts", "restore", "crowd", "engines"),
    ),
    "starts": ("Starts and execs", "s", ("starts", "pods", "engines")),
    "restore": ("From the shim's exec to the agent's answer", "ms", ("restore",)),
    "crowd": ("Twenty at once", "s", ("crowd",)),
    "memory": ("Memory of an idle container", "MB", ("memory", "density")),
    "roots": ("Kernels and roots: memory", "MB", ("roots",)),
    "boots": ("Kernels and roots: cold boots", "s", ("roots",)),
    "idle": ("Processor time of an idle container", "%", ("density",)),
    "output": ("Standard output", "MB/s", ("output",)),
    "files": ("Files: speed beside plain QEMU with virtiofsd", "", ("files",)),
    "throughput": ("Files: throughput", "MB/s", ("files",)),
    "operations": ("Files: operations per second", "IOPS", ("files",)),
    "shares": ("Plain QEMU with one virtiofsd or another: throughput", "MB/s", ("shares",)),
    "share-operations": ("The same: operations per second", "IOPS", ("shares",)),
    "share-trees": ("The same: trees of small files", "s", ("shares",)),
}
_ROW_IN = 0.42
_WIDTH_IN = 10.0


def main() -> None:
    """Write one PNG for each group of figures."""
    parser = argparse.ArgumentParser(prog="bench.plots", description=__doc__)
    parser.add_argument("--json", default="build/bench.json", help="the figures of a run")
    parser.add_argument("--output", default="docs/performance", help="the folder for the plots")
    options = parser.parse_args()
    figures = json.loads(Path(options.json).read_text())
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    for name, (title, unit, parts) in _PLOTS.items():
        chosen = [
            figure for figure in figures if figure["unit"] == unit and figure["part"] in parts
        ]
        if chosen:
            draw(title, unit, chosen, folder / f"{name}.png")
            print(folder / f"{name}.png")


def draw(title: str, unit: str, figures: list[dict[str, Any]], path: Path) -> None:
    """Draw medians as bars, every sample as a dot, limits as lines."""
    height = 1.2 + _ROW_IN * len(figures)
    picture, axes = pyplot.subplots(figsize=(_WIDTH_IN, height), layout="constrained")
    for row, figure in enumerate(reversed(figures)):
        samples = figure["samples"]
        axes.barh(row, statistics.median(samples), height=0.6, color="#8fb8de")
        axes.plot(samples, [row] * len(samples), ".", color="#1f4e79", markersize=4)
        for limit in (figure["limit"], figure["least"]):
            if limit is not None:
                axes.plot([limit] * 2, [row - 0.4, row + 0.4], color="#c0392b")
    axes.set_yticks(range(len(figures)), [figure["name"] for figure in reversed(figures)])
    axes.set_xlim(left=0)
    axes.set_xlabel(unit or "times")
    is_judged = any(figure["limit"] or figure["least"] for figure in figures)
    # Of the whole picture: the names beside the axes take half of it.
    picture.suptitle(f"{title} (red: what is asked)" if is_judged else title)
    picture.savefig(path, dpi=90)
    pyplot.close(picture)


if __name__ == "__main__":
    main()
