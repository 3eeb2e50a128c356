"""What the monitor says of itself: kata_monitor_*."""

from __future__ import annotations

import threading

from prometheus_client import (
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from kata.monitor.families import Family

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PREFIX = "kata_monitor"
# Upstream ends at 512 ms; with a shim that hangs a scrape takes its whole deadline.
_BUCKETS_MS = tuple(float(1 << exponent) for exponent in range(14))


class OwnMetrics:
    """Counts scrapes.  Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._scrapes = self._failures = 0
        self._registry = CollectorRegistry()
        ProcessCollector(namespace=_PREFIX, registry=self._registry)
        self._durations = Histogram(
            f"{_PREFIX}_scrape_durations_histogram_milliseconds",
            "time that scrapes of all sandboxes took",
            buckets=_BUCKETS_MS,
            registry=self._registry,
        )

    def count_scrape(self) -> None:
        """Count a request for metrics."""
        with self._lock:
            self._scrapes += 1

    def note_scrape(self, took_ms: float, failed: int) -> None:
        """Note how long a scrape took, and how many sandboxes did not answer."""
        self._durations.observe(took_ms)
        with self._lock:
            self._failures += failed

    def list_families(self, running: int) -> list[Family]:
        """Return all families; ``running`` is the number of sandboxes."""
        with self._lock:
            scrapes, failures = self._scrapes, self._failures
        return [
            # prometheus_client gives counters names that end with _total, upstream does not.
            _render("running_shim_count", "gauge", "sandboxes that run", running),
            _render("scrape_count", "counter", "requests for metrics", scrapes),
            _render("scrape_failed_count", "counter", "sandboxes that gave none", failures),
            *_split(generate_latest(self._registry).decode()),
        ]


def _render(name: str, kind: str, text: str, value: int) -> Family:
    return Family(f"{_PREFIX}_{name}", kind, text, f"{_PREFIX}_{name} {value}\n")


def _split(text: str) -> Iterator[Family]:
    """Take apart what prometheus_client has rendered.

    It makes times of creation families of their own, which upstream does not have.
    """
    for block in text.split("# HELP ")[1:]:
        head, kind_line, samples = block.split("\n", 2)
        name, _, help_text = head.partition(" ")
        if not name.endswith("_created"):
            yield Family(name, kind_line.rpartition(" ")[2], help_text, samples)
