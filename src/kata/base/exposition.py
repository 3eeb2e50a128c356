"""Metrics as text, in Prometheus's exposition format 0.0.4: what the agent and the shim answer."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import TypeAlias

    # What follows the family's name (a histogram's samples have endings), labels in order, value.
    Labels: TypeAlias = tuple[tuple[str, str], ...]
    Sample: TypeAlias = tuple[str, Labels, float]
    # Name, type, description, samples.
    Family: TypeAlias = tuple[str, str, str, Iterable[Sample]]

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"
_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def render_families(families: Iterable[Family]) -> str:
    """Render families; those without samples are left out."""
    return "".join(render_family(family) for family in families)


def render_family(family: Family) -> str:
    """Render one family."""
    name, kind, description, samples = family
    lines = [_render_sample(name, sample) for sample in samples]
    if not lines:
        return ""
    return f"# HELP {name} {description}\n# TYPE {name} {kind}\n" + "".join(lines)


def one(value: float) -> Iterator[Sample]:
    """Return a family's only sample."""
    yield "", (), value


def items(values: Mapping[str, float]) -> Iterator[Sample]:
    """Return a sample for each value, told apart by the label ``item``, as upstream does."""
    for name, value in values.items():
        yield "", (("item", name),), value


def _render_sample(name: str, sample: Sample) -> str:
    ending, labels, value = sample
    inside = ",".join(f'{key}="{text.translate(_ESCAPES)}"' for key, text in labels)
    return f"{name}{ending}{f'{{{inside}}}' if inside else ''} {value:.15g}\n"
