"""Text of sandboxes, hostile too: what gets through is well-formed and says whose it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kata.guest.metrics import render
from kata.monitor.exposition import MAX_LINES, OWN_LABELS, relabel, render_labels
from kata.monitor.families import merge
from kata.monitor.guest import MAX_SERIES, Shown
from tests.support.monitored import METRICS

VALUES = ("victim", "uid", "name", "space")
LABELS = render_labels(VALUES)
HONEST_SAMPLES = 7
NEWLINE = "\n"
FAMILY = "# HELP kata_guest_load x\n# TYPE kata_guest_load gauge\n"
# As the Rust agent writes it, a sample of each of its families.
UPSTREAM = """\
# HELP kata_agent_io_stat Agent process IO statistics.
# TYPE kata_agent_io_stat gauge
kata_agent_io_stat{item="rchar"} 4.5e+06
# TYPE kata_agent_proc_stat gauge
kata_agent_proc_stat{item="utime"} 12
# TYPE kata_agent_proc_status gauge
kata_agent_proc_status{item="vmrss"} 12345
# TYPE kata_agent_process_cpu_seconds_total counter
kata_agent_process_cpu_seconds_total 0.5
# TYPE kata_agent_process_max_fds gauge
kata_agent_process_max_fds 1024
# TYPE kata_agent_process_open_fds gauge
kata_agent_process_open_fds 12
# TYPE kata_agent_process_resident_memory_bytes gauge
kata_agent_process_resident_memory_bytes 12345344
# TYPE kata_agent_process_start_time_seconds gauge
kata_agent_process_start_time_seconds 1600000000.5
# TYPE kata_agent_process_threads gauge
kata_agent_process_threads 3
# TYPE kata_agent_process_virtual_memory_bytes gauge
kata_agent_process_virtual_memory_bytes 123453440
# TYPE kata_agent_scrape_count counter
kata_agent_scrape_count 1
# TYPE kata_agent_threads gauge
kata_agent_threads 3
# TYPE kata_agent_total_rss gauge
kata_agent_total_rss 12345344
# TYPE kata_agent_total_time gauge
kata_agent_total_time 0.12
# TYPE kata_agent_total_vm gauge
kata_agent_total_vm 123453440
# TYPE kata_guest_cpu_time gauge
kata_guest_cpu_time{cpu="0",item="user"} 10
kata_guest_cpu_time{cpu="total",item="user"} 10
# TYPE kata_guest_diskstat gauge
kata_guest_diskstat{disk="pmem0p1",item="reads"} 100
# TYPE kata_guest_load gauge
kata_guest_load{item="load15"} 0.01
# TYPE kata_guest_meminfo gauge
kata_guest_meminfo{item="direct_map_4M"} 0
# TYPE kata_guest_netdev_stat gauge
kata_guest_netdev_stat{interface="eth0",item="recv_bytes"} 100
# TYPE kata_guest_tasks gauge
kata_guest_tasks{item="cur"} 1
# TYPE kata_guest_vm_stat gauge
kata_guest_vm_stat{item="allocstall_dma32"} 0
"""


def list_samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


def test_samples_get_the_labels_of_their_sandbox() -> None:
    relabelled = relabel(METRICS, LABELS)
    assert relabelled.rejected == 0
    samples = list_samples("".join(merge([relabelled.families])))
    own = dict(zip(OWN_LABELS, VALUES, strict=True))
    assert ("kata_shim_threads", own, 7.0) in samples
    assert ("kata_guest_load", {"item": "load5", **own}, 1e-05) in samples
    assert len(samples) == HONEST_SAMPLES


def test_families_of_sandboxes_stand_together() -> None:
    sources = [relabel(METRICS, render_labels((name, "", "", ""))).families for name in "abc"]
    text = "".join(merge(sources))
    assert len(list_samples(text)) == 3 * HONEST_SAMPLES
    assert text.count("# TYPE kata_guest_load gauge\n") == 1
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert names == sorted(set(names))


def test_prefixes_choose_families() -> None:
    families = relabel(METRICS, LABELS, ["kata_guest_", "kata_shim_thr"]).families
    assert {family.name for family in families} == {"kata_guest_load", "kata_shim_threads"}


@pytest.mark.parametrize(
    "line",
    [
        'kata_guest_load{sandbox_id="other"} 1',
        'kata_guest_load{item="a",cri_name="other"} 1',
        'kata_guest_load{__name__="kata_shim_threads"} 1',
        'kata_guest_load{item="a",item="b"} 1',
        'kata_guest_load{le="x"} 1',
        'kata_guest_load{cpu="0",item="a"} 1',
        'kata_guest_load{pod="a"} 1',
        "kata_guest_load 1",
        'kata_guest_load{item="a"',
        'kata_guest_load{item="a} 1',
        'kata_guest_load{item="\\x"} 1',
        'kata_guest_load{item="a\x00"} 1',
        'kata_guest_load{item="\udcff"} 1',
        'kata_guest_load{item="' + "x" * 65 + '"} 1',
        "kata_guest_load " + "x" * 600,
        "kata_guest_load 1 99999999999999",
        "kata_guest_load 1e999",
        "kata_guest_load " + "9" * 400,
        "kata_guest_load 0x10",
        "kata_guest_load 1_0",
        "kata_guest_load \u0661",
        "kata_guest_load nan",
        "kata_guest_load 1 # {} 1",
        "kata_guest_load",
        " kata_guest_load 1",
        "kata_guest_load 1\r",
        "kata_guest_load_count 1",
        "kata_shim_threads 1",
        "kata_monitor_scrape_count 1",
        "up 1",
    ],
)
def test_a_bad_line_is_left_out_and_no_other(line: str) -> None:
    text = f'{FAMILY}kata_guest_load{{item="good"}} 1\n{line}\nkata_guest_load{{item="more"}} 2\n'
    relabelled = relabel(text.encode("utf-8", "surrogateescape"), LABELS)
    assert relabelled.rejected == 1
    samples = list_samples("".join(merge([relabelled.families])))
    assert [labels["item"] for _, labels, _ in samples] == ["good", "more"]


@pytest.mark.parametrize(
    "head",
    [
        "# TYPE kata_guest_load histogram",
        "# TYPE kata_guest_load summary",
        "# TYPE kata_guest_load",
        "# TYPE kata_guest_new gauge",
        "# TYPE kata_agent_process_new gauge",
        "# TYPE up gauge",
        "# TYPE kata_monitor_scrape_count counter",
        "# TYPE kata_shim_rpc_durations_histogram_milliseconds gauge",
        "# TYPE kata_shim_rpc_durations_histogram_milliseconds_count gauge",
        "# HELP kata_guest_load \\x",
    ],
)
def test_families_that_cannot_be_have_no_samples(head: str) -> None:
    name = head.split()[2]
    relabelled = relabel(f"{head}\n{name} 1\n{name}_count 1\n".encode(), LABELS)
    assert (relabelled.families, relabelled.rejected) == ([], 3)


def test_the_first_of_two_families_and_of_two_samples_counts() -> None:
    text = METRICS + FAMILY.encode() + b'kata_guest_load{item="load1"} 666\n'
    text += b"# TYPE kata_guest_diskstat gauge\n"
    text += (
        b'kata_guest_diskstat{disk="1",item="2"} 3\nkata_guest_diskstat{item="2",disk="1"} 666\n'
    )
    relabelled = relabel(text, LABELS)
    assert relabelled.rejected == 3
    assert "666" not in "".join(merge([relabelled.families]))


def test_buckets_have_bounds_that_are_numbers() -> None:
    head = METRICS[METRICS.index(b"# HELP kata_shim_rpc") :]
    name = "kata_shim_rpc_durations_histogram_milliseconds"
    text = head.decode() + f'{name}_bucket{{le="x"}} 1\n{name}_bucket 1\n{name} 1\n'
    assert relabel(text.encode(), LABELS).rejected == 3


def test_sandboxes_that_disagree_spoil_no_types_but_their_own() -> None:
    sources = [
        relabel(METRICS.replace(b"kata_guest_load gauge", b"kata_guest_load " + kind), LABELS)
        for kind in (b"gauge", b"counter", b"histogram")
    ]
    text = "".join(merge(source.families for source in sources))
    assert "# TYPE kata_guest_load untyped\n" in text
    assert len(re.findall(r"(?m)^kata_guest_load\{", text)) == 4


def test_thousands_of_lines_and_no_more() -> None:
    name = "kata_shim_threads"
    lines = (f'{name}{{item="i{number}"}} {number}' for number in range(20_000))
    relabelled = relabel(f"# TYPE {name} gauge\n{NEWLINE.join(lines)}".encode(), LABELS)
    assert (relabelled.rejected, relabelled.excess) == (1, 0)
    samples = list_samples("".join(merge([relabelled.families])))
    assert len(samples) == MAX_LINES - 1


def test_a_guest_that_shows_ever_new_series_has_a_bounded_number() -> None:
    shown, seen = Shown(), set()
    for scrape in range(5):
        lines = (f'kata_guest_vm_stat{{item="{scrape}-{number}"}} 1' for number in range(2500))
        text = METRICS + f"# TYPE kata_guest_vm_stat gauge\n{NEWLINE.join(lines)}".encode()
        relabelled = relabel(text, LABELS, (), shown)
        assert relabelled.rejected == 0
        samples = list_samples("".join(merge([relabelled.families])))
        assert len(samples) == HONEST_SAMPLES + 2500 - relabelled.excess
        seen |= {labels["item"] for name, labels, _ in samples if name.startswith("kata_guest_")}
    assert len(seen) == MAX_SERIES
    # Whatever else it shows, what was known before stays, and so does what the host says.
    assert len(samples) == HONEST_SAMPLES


def test_all_that_agents_write_is_taken() -> None:
    for text in (render(1), UPSTREAM):
        relabelled = relabel(text.encode(), LABELS)
        assert (relabelled.rejected, relabelled.excess) == (0, 0)
        names = {family.name for family in relabelled.families}
        assert names == set(re.findall(r"(?m)^# TYPE (\S+)", text))


def test_names_of_pods_can_be_anything() -> None:
    names = ('a"}\n# TYPE x gauge\\', "\ud800", "x" * 10_000, "ä\u2028\0")
    text = "".join(merge([relabel(METRICS, render_labels(names)).families]))
    text.encode()
    found = {labels["sandbox_id"] for _, labels, _ in list_samples(text)}
    assert found == {'a"}\ufffd# TYPE x gauge\\'}


# Words that a hostile guest would try, in any order, and any bytes.
TRICKS = (
    b"# TYPE ", b"# HELP ", b"kata_guest_load", b"kata_shim_threads", b"kata_guest_x",
    b" gauge", b" counter", b" histogram", b"\n", b"{", b"}", b'"', b",", b"=",
    b" 1", b" 1e999", b" NaN",
    b"sandbox_id", b'item="a"', b'{item="b"} 2\n', b"__name__", b"\\", b"\0", b"\r", b"\xff",
    b"# TYPE kata_guest_load counter\n", b"# HELP kata_guest_load \\n\\\\ x\n",
    b"kata_guest_load_histogram_milliseconds", b"_bucket", b'le="1"', b"_count",
    "ä\u2028".encode(),
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(TRICKS) | st.binary(max_size=5), max_size=60).map(b"".join)


@given(before=HOSTILE, after=HOSTILE)
def test_no_guest_can_forge_or_spoil(before: bytes, after: bytes) -> None:
    sources = [
        relabel(before, render_labels(("attacker", "a", "a", "a"))).families,
        relabel(METRICS, LABELS).families,
        relabel(METRICS + after, render_labels(("attacker", "a", "a", "a"))).families,
    ]
    text = "".join(merge(sources))
    text.encode()
    assert "\0" not in text
    samples = list_samples(text)
    allowed = {VALUES, ("attacker", "a", "a", "a")}
    assert {tuple(labels[name] for name in OWN_LABELS) for _, labels, _ in samples} <= allowed
    honest = [sample for sample in samples if sample[1]["sandbox_id"] == "victim"]
    own = dict(zip(OWN_LABELS, VALUES, strict=True))
    alone = list_samples("".join(merge([relabel(METRICS, LABELS).families])))
    assert sorted(map(str, honest)) == sorted(map(str, alone))
    assert all(labels.items() >= own.items() for _, labels, _ in honest)
    types = [line for line in text.split("\n") if line.startswith("# TYPE")]
    assert len(types) == len({line.split(" ")[2] for line in types})
