"""Measure and compare, all in one run on one machine: ``make bench ARGS="--rounds 7 --json F"``.

A part alone replaces its figures in the file: ``make bench ARGS="--only starts,crowd"``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.bed import make_bed
from bench.parts import PARTS
from bench.samples import Figure
from tools.steps import BUILD


def main() -> None:
    """Print every figure, and write them as JSON."""
    options = _parse_arguments()
    path = Path(options.json)
    with make_bed(options.rounds) as bed:
        for part in options.only:
            measured = []
            for figure in PARTS[part](bed):
                print(figure.render(), flush=True)
                measured.append(figure)
            # After each part: a later one that fails must not cost what was measured.
            save(path, part, measured)
    print(f"as JSON: {path}")


def save(path: Path, part: str, figures: list[Figure]) -> None:
    """Put a part's figures into the file, in the place of those it had of this part."""
    kept = json.loads(path.read_text()) if path.exists() else []
    by_part = {name: [entry for entry in kept if entry.get("part") == name] for name in PARTS}
    by_part[part] = [{"part": part, **figure.to_json()} for figure in figures]
    content = json.dumps([entry for entries in by_part.values() for entry in entries], indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each command")
    parser.add_argument("--json", default=f"{BUILD}/bench.json", help="where the figures go")
    parser.add_argument(
        "--only",
        type=_parse_parts,
        default=list(PARTS),
        metavar="PART,...",
        help=f"what to measure: {', '.join(PARTS)}",
    )
    return parser.parse_args()


def _parse_parts(text: str) -> list[str]:
    parts = text.split(",")
    if unknown := set(parts) - set(PARTS):
        raise argparse.ArgumentTypeError(f"no such part: {', '.join(sorted(unknown))}")
    return parts


if __name__ == "__main__":
    main()
