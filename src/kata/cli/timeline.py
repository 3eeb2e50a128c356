"""Steps and their times, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kata.base.trace import Step

_BAR, _SHORT = "█", "▏"
_MIN_CELLS = 20
# A step that began this long after all before it had ended belongs to another start.
_APART_S = 2.0


def render_timeline(steps: Sequence[Step], columns: int) -> list[str]:
    """Draw each step as a bar below one scale; a later start, such as a restart, has its own."""
    lines: list[str] = []
    for group in _split(steps):
        if lines:
            lines.append("")
        lines += _draw(group, columns)
    return lines


def _split(steps: Sequence[Step]) -> Iterator[list[Step]]:
    group: list[Step] = []
    for step in steps:
        if group and step.began - max(before.ended for before in group) > _APART_S:
            yield group
            group = []
        group.append(step)
    if group:
        yield group


def _draw(steps: Sequence[Step], columns: int) -> list[str]:
    first = min(step.began for step in steps)
    whole = max(max(step.ended for step in steps) - first, 0.001)
    width = max(len(step.step) for step in steps)
    cells = max(_MIN_CELLS, columns - width - 14)
    title = f"{whole * 1000:.0f} ms"
    lines = [f"{'':{width}}  0 ms{title:>{cells - 4}}"]
    for step in steps:
        at = int((step.began - first) / whole * cells)
        length = round((step.ended - step.began) / whole * cells)
        bar = " " * min(at, cells - 1) + (_BAR * length or _SHORT)
        took = f"{(step.ended - step.began) * 1000:.0f} ms"
        lines.append(f"{step.step:{width}}  {bar[:cells]:{cells}} {took:>8}")
    return lines
