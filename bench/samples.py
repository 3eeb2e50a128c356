"""Figures with their spread: medians of several runs, ratios taken pair by pair."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured quantity: its name, unit, all samples, and what is asked of its median."""

    name: str
    unit: str
    samples: tuple[float, ...]
    limit: float | None = None  # at most
    least: float | None = None

    @property
    def median(self) -> float:
        """Return the median of the samples."""
        return statistics.median(self.samples)

    def render(self) -> str:
        """Return one line for people."""
        spread = f"{self.median:9.2f}  [{min(self.samples):.2f} .. {max(self.samples):.2f}]"
        line = f"{self.name:<60}{spread:<34}{self.unit:<6}"
        if self.limit is not None:
            line += f" at most {self.limit:g}: {_judge(self.median <= self.limit)}"
        if self.least is not None:
            line += f" at least {self.least:g}: {_judge(self.median >= self.least)}"
        return line.rstrip()

    def to_json(self) -> dict[str, object]:
        """Return the figure for machines."""
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.median,
            "samples": list(self.samples),
            "limit": self.limit,
            "least": self.least,
        }


def _judge(is_good: bool) -> str:
    return "ok" if is_good else "MISSED"


def time_call(call: Callable[[], object]) -> float:
    """Return the seconds that ``call`` took."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def read_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def time_pairs(
    first: Callable[[], object],
    second: Callable[[], object],
    rounds: int,
    prepare: Callable[[], object] = lambda: None,
) -> tuple[list[float], list[float]]:
    """Time two calls in turn, after one round that does not count: a noisy machine hits both.

    ``prepare`` is called before each round, untimed.
    """
    pairs = []
    for _ in range(rounds + 1):
        prepare()
        pairs.append((time_call(first), time_call(second)))
    return [a for a, _ in pairs[1:]], [b for _, b in pairs[1:]]


def compare(
    names: tuple[str, str], times: tuple[list[float], list[float]], limit: float | None
) -> list[Figure]:
    """Return both times and their ratio, pair by pair."""
    ratios = tuple(a / b for a, b in zip(*times, strict=True))
    return [
        Figure(names[0], "s", tuple(times[0])),
        Figure(names[1], "s", tuple(times[1])),
        Figure(f"ratio of {names[0]} to {names[1]}", "", ratios, limit),
    ]
