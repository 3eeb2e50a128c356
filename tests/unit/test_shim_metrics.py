"""Durations as histograms, names, and the overhead of a sandbox."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st

from kata.base.exposition import HISTOGRAM, render_family
from kata.base.procmetrics import read_cpu_s
from kata.host.shim.metrics import snake_case
from kata.host.shim.overhead import CpuOverhead, GuestUse, memory_overhead, read_pss
from kata.rpc.durations import Durations


@given(st.lists(st.floats(0, 5000), max_size=40))
def test_a_histogram_counts_each_call_once(took_ms: list[float]) -> None:
    durations = Durations()
    for each in took_ms:
        durations.note("Create", each / 1000)
    samples = {
        (ending, dict(labels).get("le", "")): value for ending, labels, value in durations.samples()
    }
    if not took_ms:
        assert not samples
        return
    # Limits that rounding to seconds and back cannot cross.
    for bound in (1, 64, 512):
        near = 1e-9 * bound
        counted = samples["_bucket", str(bound)]
        assert sum(each <= bound - near for each in took_ms) <= counted
        assert counted <= sum(each <= bound + near for each in took_ms)
    assert samples["_bucket", "+Inf"] == samples["_count", ""] == len(took_ms)
    assert abs(samples["_sum", ""] - sum(took_ms)) < 1e-6 * (1 + sum(took_ms))


def test_a_histogram_as_text() -> None:
    durations = Durations()
    durations.note("Start", 0.003)
    text = render_family(("d", HISTOGRAM, "calls", durations.samples()))
    assert text.startswith("# HELP d calls\n# TYPE d histogram\n")
    assert 'd_bucket{action="Start",le="2"} 0\nd_bucket{action="Start",le="4"} 1\n' in text
    assert text.endswith('d_sum{action="Start"} 3\nd_count{action="Start"} 1\n')


def test_labels_are_escaped() -> None:
    text = render_family(("x", "gauge", "y", [("", (("item", 'a"b\\c\nd'),), 1.0)]))
    assert text.endswith('x{item="a\\"b\\\\c\\nd"} 1\n')


def test_methods_are_called_as_upstream_does() -> None:
    names = ["Create", "CloseIO", "ResizePty", "Pids"]
    assert [snake_case(name) for name in names] == ["create", "close_io", "resize_pty", "pids"]


def test_overhead_is_never_negative() -> None:
    """Upstream's is, where the guest counts memory that the host has not given it."""
    greedy = GuestUse("c1", 1 << 50, 1e9)
    pid = os.getpid()
    own = read_pss(pid)
    assert 0 < memory_overhead([pid, pid], [greedy]) < 2 * own
    overhead = CpuOverhead([pid], 0.0)
    assert overhead.measure([pid], [greedy], 1.0) == 0.0


def spend(seconds: float) -> None:
    end_at = read_cpu_s(os.getpid()) + seconds
    while read_cpu_s(os.getpid()) < end_at:
        sum(range(10000))


def test_overhead_of_the_processor() -> None:
    spend(0.1)
    pid = os.getpid()
    overhead = CpuOverhead([pid], 0.0)
    # What was before does not count: a machine may have waited for hours.
    assert overhead.measure([pid], [], 1000.0) < 1
    spend(0.3)
    first = overhead.measure([pid], [], 1001.0)
    assert first > 20
    assert overhead.measure([pid], [], 1001.01) == first  # too soon to tell
    spend(0.3)
    # What containers use is theirs.
    assert overhead.measure([pid], [GuestUse("c", 0, 0.3)], 1002.0) < first
