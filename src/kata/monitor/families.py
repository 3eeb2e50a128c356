"""Metric families of several sources, put together to one text for Prometheus.

The format is Prometheus's text format 0.0.4: a family stands in one place, after its HELP and TYPE.
"""

from __future__ import annotations

from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
HISTOGRAM, UNTYPED = "histogram", "untyped"


@dataclass(frozen=True, slots=True)
class Family:
    """A family with the lines of its samples, of one source."""

    name: str
    kind: str
    # Escaped as in the text.
    help: str
    # Whole lines.
    samples: str


def merge(sources: Iterable[Iterable[Family]]) -> Iterator[str]:
    """Yield the text of each family in pieces, the samples of one source after the other's.

    A source can only say of its own samples what they are: where sources disagree between gauge and
    counter, the family is untyped.  No other disagreement can be, since names tell histograms.
    """
    by_name: dict[str, list[Family]] = {}
    for source in sources:
        for family in source:
            by_name.setdefault(family.name, []).append(family)
    for _, members in sorted(by_name.items()):
        yield _render_head(members)
        for family in members:
            yield family.samples


def matches(name: str, prefixes: Sequence[str]) -> bool:
    """Tell whether a family is wanted: by the begin of its name, or because nothing is chosen."""
    return not prefixes or name.startswith(tuple(prefixes))


def _render_head(members: Sequence[Family]) -> str:
    name = members[0].name
    kinds = {family.kind for family in members}
    kind = kinds.pop() if len(kinds) == 1 else UNTYPED
    text = next((family.help for family in members if family.help), "")
    head = f"# HELP {name} {text}\n" if text else ""
    return head + f"# TYPE {name} {kind}\n"
