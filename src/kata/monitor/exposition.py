"""The metrics of one sandbox: its text checked line by line, and every sample labelled as its own.

Part of the text was written in the guest, which is not trusted.  A line that is not exactly what
shim and agent write is left out and counted; nothing that gets through can look like another
sandbox's, spoil the whole text, or fill Prometheus with ever new series.  prometheus_client's
parser is not used for that: it takes 1e999, for which Prometheus refuses everything, NUL and time
stamps, and is seven times as slow (19 ms for 135 kB; with 100 sandboxes that is 2 s of each
scrape).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

from kata.monitor import guest
from kata.monitor.families import HISTOGRAM, UNTYPED, Family, matches

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# A usual sandbox has 2 000 lines in 135 kB.  Each takes time, and gets longer by the labels: their
# number bounds what a hostile guest can make of its megabytes.
MAX_LINES = 12_000
_MAX_LINE = 512
OWN_LABELS = ("sandbox_id", "cri_uid", "cri_name", "cri_namespace")

# Valid UTF-8 without control characters: a NUL is the end of the text for Prometheus.
_SPECIAL = r"\\\x00-\x1f\x7f-\x9f\ud800-\udfff"
_HELP = re.compile(rf"[^{_SPECIAL}]*(?:\\[\\n][^{_SPECIAL}]*)*")
# Longer names are in nobody's use.  Labels that begin with underscores are Prometheus's own.
_NAME = r"kata_(?:agent|guest|hypervisor|shim|virtiofsd)_[a-z0-9_]{1,80}"
_VALUE = rf'[^"{_SPECIAL}]*(?:\\[\\"n][^"{_SPECIAL}]*)*'
_LABEL = rf'[a-zA-Z][a-zA-Z0-9_]{{0,63}}="{_VALUE}"'
_SERIES = re.compile(rf"({_NAME})(?:\{{({_LABEL}(?:,{_LABEL}){{0,7}})\}})?")
_PAIR = re.compile(r'([a-zA-Z0-9_]+)="((?:[^"\\]|\\.)*)"')
# Whatever has so few digits is within the range of a float.
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,30}(?:\.[0-9]{0,30})?(?:[eE][+-]?[0-9]{1,2})?|Inf)|NaN", re.ASCII
)
# Upstream's names of histograms end with this, and no other family's name has it.
_HISTOGRAM_MARK = "_histogram_milliseconds"
_HISTOGRAM_PARTS = ("_bucket", "_count", "_sum")
_PLAIN_KINDS = ("gauge", "counter", UNTYPED)


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What of a text is good, and how many of its lines were not."""

    families: list[Family]
    rejected: int
    # How many good lines were of series beyond those that a guest may show.
    excess: int


@dataclass(frozen=True, slots=True)
class _Series:
    """A sample without its value: the metric's name, and the line up to the added labels."""

    name: str
    head: str


@dataclass(slots=True)
class _Block:
    """A family that is being read."""

    name: str
    kind: str
    help: str
    # Names that its samples may have.
    members: frozenset[str]
    heads: set[str] = field(default_factory=set)
    lines: list[str] = field(default_factory=list)


def relabel(
    body: bytes, labels: str, prefixes: Sequence[str] = (), shown: guest.Shown | None = None
) -> Relabelled:
    """Check a sandbox's text and add ``labels`` (``a="b",c="d"``) to every sample.

    With ``prefixes`` only families whose names begin with one of them.  ``shown`` is what the guest
    has shown before, and grows.
    """
    reader = _Reader(labels, prefixes, shown or guest.Shown())
    lines = body.decode("utf-8", "surrogateescape").split("\n", MAX_LINES)
    for line in lines[:MAX_LINES]:
        reader.read(line)
    families = [
        Family(block.name, block.kind, block.help, "".join(block.lines))
        for block in reader.blocks.values()
        if block.lines
    ]
    rest = 1 if len(lines) > MAX_LINES else 0
    return Relabelled(families, reader.rejected + rest, reader.excess)


def render_labels(values: Sequence[str]) -> str:
    """Render the values of OWN_LABELS, in that order, whatever is in them."""
    pairs = zip(OWN_LABELS, values, strict=True)
    return ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)


class _Reader:
    """Reads lines, and keeps what is good."""

    def __init__(self, labels: str, prefixes: Sequence[str], shown: guest.Shown) -> None:
        self.blocks: dict[str, _Block] = {}
        self.rejected = self.excess = 0
        self._shown = shown
        self._tail = labels + "} "
        self._prefixes = prefixes
        self._help = ("", "")
        self._block: _Block | None = None
        # Whether samples that come now are of a family that nobody wants.
        self._skips = False

    def read(self, line: str) -> None:
        """Take one line, without its end."""
        if not line:
            return
        if len(line) > _MAX_LINE:
            self.rejected += 1
        elif line.startswith("#"):
            self._read_comment(line)
        elif not self._skips:
            self._read_sample(line)

    def _read_sample(self, line: str) -> None:
        text, _, value = line.rpartition(" ")
        series, block = _parse_series(text), self._block
        if (
            series is None
            or block is None
            or series.name not in block.members
            or series.head in block.heads
            or not _NUMBER.fullmatch(value)
        ):
            self.rejected += 1
        elif series.name in guest.LABELS and not self._shown.add(series.head):
            self.excess += 1
        else:
            block.heads.add(series.head)
            block.lines.append(f"{series.head}{self._tail}{value}\n")

    def _read_comment(self, line: str) -> None:
        word, _, rest = line.removeprefix("# ").partition(" ")
        name, _, text = rest.partition(" ")
        if word == "HELP":
            self._block, self._skips = None, False
            if _HELP.fullmatch(text):
                self._help = (name, text)
            else:
                self.rejected += 1
        elif word == "TYPE":
            self._open(name, text)

    def _open(self, name: str, kind: str) -> None:
        """Begin a family.  A second one of the same name is refused: the shim's own come first."""
        members = find_members(name, kind)
        self._block = None
        self._skips = bool(members) and not matches(name, self._prefixes)
        if self._skips:
            return
        if not members or name in self.blocks:
            self.rejected += 1
            return
        text = self._help[1] if self._help[0] == name else ""
        self._block = self.blocks[name] = _Block(name, kind, text, members)


def find_members(name: str, kind: str) -> frozenset[str]:
    """Return the names that a family's samples have; none if there can be no such family."""
    is_unknown = name.startswith(guest.PREFIXES) and name not in guest.LABELS
    if is_unknown or not re.fullmatch(_NAME, name):
        return frozenset()
    if name.endswith(_HISTOGRAM_MARK):
        parts = _HISTOGRAM_PARTS if kind == HISTOGRAM else ()
        return frozenset(name + part for part in parts)
    if _HISTOGRAM_MARK in name or kind not in _PLAIN_KINDS:
        return frozenset()
    return frozenset((name,))


# Sandboxes have mostly the same series, at every scrape: 2 000 of at most 512 characters.
@lru_cache(maxsize=1 << 13)
def _parse_series(text: str) -> _Series | None:
    found = _SERIES.fullmatch(text)
    if not found:
        return None
    pairs = _PAIR.findall(found[2] or "")
    labels = dict(pairs)
    if len(labels) != len(pairs) or not _has_sound_labels(found[1], labels):
        return None
    inside = "".join(f'{name}="{value}",' for name, value in sorted(pairs))
    return _Series(found[1], f"{found[1]}{{{inside}")


def _has_sound_labels(name: str, labels: dict[str, str]) -> bool:
    if name in guest.LABELS:
        return guest.has_sound_labels(name, labels)
    if "quantile" in labels or not labels.keys().isdisjoint(OWN_LABELS):
        return False
    is_bucket = name.endswith(f"{_HISTOGRAM_MARK}_bucket")
    return bool(_NUMBER.fullmatch(labels.get("le", ""))) if is_bucket else "le" not in labels


def _escape(value: str) -> str:
    """Escape a label's value; what cannot be printed, and what is too long, is replaced."""
    printable: Iterator[str] = (c if c.isprintable() else "\ufffd" for c in value[:_MAX_LINE])
    return "".join(printable).replace("\\", "\\\\").replace('"', '\\"')
