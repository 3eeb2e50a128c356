"""How long calls took, counted in the buckets of upstream's histograms."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.base.exposition import Sample

# Milliseconds, each twice the one before.
_BOUNDS_MS = tuple(1 << power for power in range(10))


class Durations:
    """A histogram of durations for each action."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Counts within each bound and above the last one; then the sum in milliseconds.
        self._actions: dict[str, tuple[list[int], list[float]]] = {}

    def note(self, action: str, duration_s: float) -> None:
        """Count a call."""
        took_ms = duration_s * 1000
        bucket = sum(1 for bound in _BOUNDS_MS if took_ms > bound)
        with self._lock:
            counts, total_ms = self._actions.setdefault(
                action, ([0] * (len(_BOUNDS_MS) + 1), [0.0])
            )
            counts[bucket] += 1
            total_ms[0] += took_ms

    def clear(self) -> None:
        """Forget all calls."""
        with self._lock:
            self._actions.clear()

    def samples(self) -> Iterator[Sample]:
        """Return the histograms' samples, told apart by the label ``action``."""
        with self._lock:
            known = [
                (name, list(counts), sums[0]) for name, (counts, sums) in self._actions.items()
            ]
        for action, counts, total_ms in known:
            labels = (("action", action),)
            seen = 0
            for bound, count in zip((*map(str, _BOUNDS_MS), "+Inf"), counts, strict=True):
                seen += count
                yield "_bucket", (*labels, ("le", bound)), float(seen)
            yield "_sum", labels, total_ms
            yield "_count", labels, float(seen)
