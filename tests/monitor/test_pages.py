"""The monitor by HTTP, with sandboxes that answer, hang, lie and die."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kata.monitor import scrape
from kata.monitor.exposition import Relabelled, relabel
from kata.monitor.guest import MAX_SERIES
from tests.monitor.conftest import Monitor
from tests.support.monitored import METRICS, FakeShim, make_answer

# Its parser's name for the counter that has none of its names.
FAILED = "kata_monitor_scrape_failed_count_total"


def read_metrics(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def test_metrics_of_all_sandboxes(monitor: Monitor) -> None:
    monitor.add("a", "b", "c")
    got = monitor.get("/metrics")
    assert got.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    metrics = read_metrics(got.text)
    pod = {"cri_uid": "uid-1", "cri_name": "pod-1", "cri_namespace": "default"}
    expected = [({"sandbox_id": name, **pod}, 7.0) for name in "abc"]
    assert metrics["kata_shim_threads"] == expected
    assert metrics["kata_monitor_running_shim_count"] == [({}, 3.0)]
    assert metrics[FAILED] == [({}, 0.0)]


def test_own_metrics_have_upstreams_names(monitor: Monitor) -> None:
    monitor.get("/metrics")
    text = monitor.get("/metrics").text
    kinds = dict(re.findall(r"# TYPE (\S+) (\S+)", text))
    assert kinds == {
        "kata_monitor_process_cpu_seconds_total": "counter",
        "kata_monitor_process_max_fds": "gauge",
        "kata_monitor_process_open_fds": "gauge",
        "kata_monitor_process_resident_memory_bytes": "gauge",
        "kata_monitor_process_start_time_seconds": "gauge",
        "kata_monitor_process_virtual_memory_bytes": "gauge",
        "kata_monitor_running_shim_count": "gauge",
        "kata_monitor_scrape_count": "counter",
        "kata_monitor_scrape_durations_histogram_milliseconds": "histogram",
        "kata_monitor_scrape_failed_count": "counter",
    }
    assert "\nkata_monitor_scrape_count 2\n" in text
    assert "\nkata_monitor_scrape_durations_histogram_milliseconds_count 2.0\n" in text


def test_filters(monitor: Monitor) -> None:
    monitor.add("a", "b")
    chosen = read_metrics(monitor.get("/metrics?filter_family=kata_guest_,kata_shim_thr").text)
    assert chosen.keys() == {"kata_guest_load", "kata_shim_threads"}
    assert len(chosen["kata_shim_threads"]) == 2
    one = read_metrics(monitor.get("/metrics?sandbox=b&filter_family=kata_shim_threads").text)
    assert [labels["sandbox_id"] for labels, _ in one["kata_shim_threads"]] == ["b"]
    assert one.keys() == {"kata_shim_threads"}
    assert monitor.get("/metrics?filter_family=nothing").text == ""


def test_compressed_for_those_who_want_it(monitor: Monitor) -> None:
    monitor.add("a")
    plain = monitor.get("/metrics?sandbox=a")
    zipped = monitor.get("/metrics?sandbox=a", Accept_Encoding="deflate, gzip;q=1.0")
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert zipped.text == plain.text != ""


def test_a_sandbox_that_hangs(monitor: Monitor) -> None:
    good, bad = monitor.add("good", "bad")
    bad.hang()
    began = time.monotonic()
    metrics = read_metrics(monitor.get("/metrics").text)
    assert time.monotonic() - began < 15.0
    assert [labels["sandbox_id"] for labels, _ in metrics["kata_shim_threads"]] == ["good"]
    assert metrics[FAILED] == [({}, 1.0)]
    assert metrics["kata_monitor_running_shim_count"] == [({}, 2.0)]
    monitor.get("/metrics")
    complaints = [line for line in monitor.log if b"sandbox not scraped" in line]
    assert len(complaints) == 1
    assert b"no answer within 1 s" in complaints[0]
    assert sorted(good.asked) == ["/metrics", "/metrics", "/sandbox"]


def test_sandboxes_that_die_while_they_answer(monitor: Monitor) -> None:
    _, cut, dead = monitor.add("good", "cut", "dead")
    cut.answers["/metrics"] = cut.answers["/metrics"][:-5]
    dead.stop()
    metrics = read_metrics(monitor.get("/metrics").text)
    assert [labels["sandbox_id"] for labels, _ in metrics["kata_shim_threads"]] == ["good"]
    assert metrics[FAILED] == [({}, 2.0)]
    assert monitor.get("/metrics?sandbox=dead").status == 502
    dead.remove()
    monitor.wait_for({"good"}, gone=frozenset({"dead"}))
    assert monitor.get("/metrics?sandbox=dead").status == 404


def test_one_that_ends_while_it_is_asked_has_not_failed(monitor: Monitor) -> None:
    _, ending = monitor.add("good", "ending")
    ending.send = lambda _, __: ending.remove()
    metrics = read_metrics(monitor.get("/metrics").text)
    assert [labels["sandbox_id"] for labels, _ in metrics["kata_shim_threads"]] == ["good"]
    assert metrics[FAILED] == [({}, 0.0)]


def test_one_that_refuses_and_is_gone_when_the_scrape_ends_has_not_failed(
    monitor: Monitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim closes the socket a moment before its folder goes."""
    ending, _ = monitor.add("ending", "good")
    ending.stop()

    def relabel_late(*args: Any) -> Relabelled:
        ending.remove()
        return relabel(*args)

    monkeypatch.setattr(scrape, "relabel", relabel_late)
    metrics = read_metrics(monitor.get("/metrics").text)
    assert [labels["sandbox_id"] for labels, _ in metrics["kata_shim_threads"]] == ["good"]
    assert metrics[FAILED] == [({}, 0.0)]
    assert not any(b"sandbox not scraped" in line for line in monitor.log)


def test_one_that_is_replaced_while_it_is_asked_has_not_failed(monitor: Monitor) -> None:
    (ending,) = monitor.add("a")

    def end(*_: object) -> None:
        ending.remove()
        FakeShim(monitor.root, "a")

    ending.send = end
    assert read_metrics(monitor.get("/metrics").text)[FAILED] == [({}, 0.0)]


def test_a_guests_series_are_counted_until_its_sandbox_is_gone(monitor: Monitor) -> None:
    (shim,) = monitor.add("a")
    for scraped in range(3):
        text = "".join(f'kata_guest_vm_stat{{item="{scraped}-{n}"}} 1\n' for n in range(4000))
        shim.answers["/metrics"] = make_answer(f"# TYPE kata_guest_vm_stat gauge\n{text}".encode())
        got = read_metrics(monitor.get("/metrics").text).get("kata_guest_vm_stat", [])
        assert len(got) == max(0, min(4000, MAX_SERIES - 4000 * scraped))
    complaints = [line for line in monitor.log if b"metrics left out" in line]
    assert len(complaints) == 1
    assert b"2000 lines are beyond the 6000 series of a guest" in complaints[0]
    shim.remove()
    monitor.wait_for(set(), gone=frozenset({"a"}))
    monitor.add("a")
    assert "kata_guest_load" in read_metrics(monitor.get("/metrics").text)


def test_a_hostile_sandbox_keeps_its_own_good_lines(monitor: Monitor) -> None:
    hostile = (
        METRICS.replace(b"1e-05", b"1e999") + b'kata_guest_load{sandbox_id="good"} 1\n\xff\0\n'
    )
    monitor.add("good")
    monitor.add("bad", metrics=hostile)
    for _ in range(2):
        metrics = read_metrics(monitor.get("/metrics").text)
    assert [labels["sandbox_id"] for labels, _ in metrics["kata_guest_load"]] == [
        "bad",
        "good",
        "good",
    ]
    assert metrics[FAILED] == [({}, 0.0)]
    complaints = [line for line in monitor.log if b"metrics left out" in line]
    assert len(complaints) == 1
    assert b"sandbox=bad" in complaints[0]


@pytest.mark.parametrize("answer", [b"[]", b"x", b"[" * 100_000, b"\xff"])
def test_a_pod_that_cannot_be_read(monitor: Monitor, answer: bytes) -> None:
    (shim,) = monitor.add("a")
    good = shim.answers["/sandbox"]
    shim.answers["/sandbox"] = make_answer(answer)
    assert "kata_shim_threads" not in read_metrics(monitor.get("/metrics").text)
    shim.answers["/sandbox"] = good
    assert "kata_shim_threads" in read_metrics(monitor.get("/metrics").text)
    assert shim.asked.count("/sandbox") == 2


def test_a_pod_is_asked_once_and_another_of_the_same_name_again(monitor: Monitor) -> None:
    (first,) = monitor.add("a")
    monitor.get("/metrics")
    monitor.get("/metrics")
    assert first.asked.count("/sandbox") == 1
    first.remove()
    monitor.wait_for(set(), gone=frozenset({"a"}))
    (second,) = monitor.add("a")
    second.answers["/sandbox"] = make_answer(b'{"cri_name": "pod-2"}')
    (sample,) = read_metrics(monitor.get("/metrics").text)["kata_shim_threads"]
    assert sample[0]["cri_name"] == "pod-2"


def test_agent_url(monitor: Monitor) -> None:
    (shim,) = monitor.add("a")
    assert monitor.get("/agent-url?sandbox=a").text == "vsock://3:1024\n"
    assert monitor.get("/agent-url").status == 400
    assert monitor.get("/agent-url?sandbox=b").status == 404
    shim.answers["/agent-url"] = make_answer(b"no vsock here", "501 Not Implemented")
    got = monitor.get("/agent-url?sandbox=a")
    assert (got.status, got.text) == (501, "the shim answers 501: no vsock here\n")
    shim.hang()
    assert monitor.get("/agent-url?sandbox=a").status == 504


@pytest.mark.parametrize("name", ["../a", "%2e%2e", "a/b", "-a", "x" * 100, "%00", "<b>"])
def test_ids_are_checked(monitor: Monitor, name: str) -> None:
    for path in ("/agent-url", "/metrics"):
        got = monitor.get(f"{path}?sandbox={name}")
        assert got.status == 400
        assert got.headers["Content-Type"].startswith("text/plain")


def test_list_and_index(monitor: Monitor) -> None:
    monitor.add("b", "a")
    assert monitor.get("/sandboxes").text == "a\nb\n"
    page = monitor.get("/sandboxes", Accept="text/html,*/*").text
    assert '<a href="/metrics?sandbox=a">metrics</a>' in page
    for accept in ("*/*", "text/html"):
        index = monitor.get("/", Accept=accept).text
        assert all(path in index for path in ("/metrics", "/sandboxes", "/agent-url"))


def test_what_there_is_not(monitor: Monitor) -> None:
    assert monitor.get("/etc/passwd").status == 404
    assert monitor.get("//[").status in (400, 404)
    assert monitor.get("/metrics", method="POST").status == 501
    head = monitor.get("/sandboxes", method="HEAD")
    assert (head.status, head.text) == (200, "")


def test_too_many_scrapes_at_once(monitor: Monitor) -> None:
    (shim,) = monitor.add("a")
    shim.hang()
    with ThreadPoolExecutor(12) as pool:
        statuses = list(pool.map(lambda _: monitor.get("/metrics").status, range(12)))
    assert set(statuses) == {200, 503}


def test_thousands_of_series(monitor: Monitor) -> None:
    text = "# TYPE kata_guest_vm_stat gauge\n"
    text += "".join(f'kata_guest_vm_stat{{item="i{n}"}} {n}\n' for n in range(5000))
    monitor.add("a", "b", metrics=text.encode())
    got = monitor.get("/metrics", Accept_Encoding="gzip")
    assert len(read_metrics(got.text)["kata_guest_vm_stat"]) == 10_000
