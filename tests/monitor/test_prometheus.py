"""Prometheus's own reading of what hostile guests say, and the dashboard's form."""

from __future__ import annotations

import json
import random
import re
import subprocess
from pathlib import Path

from kata.monitor.exposition import relabel, render_labels
from kata.monitor.families import merge
from kata.monitor.guest import MAX_SERIES
from tests.monitor.conftest import Monitor
from tests.monitor.test_exposition import TRICKS
from tests.support.dashboard import list_expressions, load
from tests.support.monitored import METRICS, make_answer
from tests.support.prometheus import JOB, Prometheus, check_metrics, find_program

HOSTS = 400


def test_hostile_texts_are_well_formed_for_go(tmp_path: Path) -> None:
    """The parser is another than the one that other tests use, and finds other faults."""
    chance = random.Random(1)
    texts = [b"".join(chance.choices(TRICKS, k=chance.randrange(200))) for _ in range(HOSTS)]
    sources = [
        relabel(METRICS + text if number % 2 else text, render_labels((f"s{number}", "", "", "")))
        for number, text in enumerate(texts)
    ]
    check_metrics("".join(merge(source.families for source in sources)))


def test_hostile_sandboxes_do_not_spoil_a_scrape(monitor: Monitor, tmp_path: Path) -> None:
    chance = random.Random(2)
    for number in range(20):
        text = METRICS + b"".join(chance.choices(TRICKS, k=200))
        monitor.add(f"bad-{number}", metrics=text)
    (long,) = monitor.add("long")
    long.answers["/sandbox"] = make_answer(json.dumps({"cri_name": "\U0001f431" * 600}).encode())
    monitor.add("good")
    prometheus = Prometheus(tmp_path, monitor.port)
    try:
        ((labels, value),) = prometheus.wait_for('kata_shim_threads{sandbox_id="good"}')
        assert (labels["cri_name"], value) == ("pod-1", 7.0)
        assert prometheus.query('up{job="kata"}')[0][1] == 1.0
        (good,) = prometheus.query('count(count by (__name__) ({sandbox_id="good"}))')
        assert good[1] == 5.0
        names = prometheus.query('count by (sandbox_id) ({__name__=~"kata_shim.*|kata_guest.*"})')
        assert {labels["sandbox_id"] for labels, _ in names} == {
            "good",
            "long",
            *(f"bad-{number}" for number in range(20)),
        }
    finally:
        prometheus.stop()


def test_the_scrape_job_is_one() -> None:
    done = subprocess.run(
        [find_program("promtool"), "check", "config", JOB],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_scrape_jobs_limits_are_above_the_monitors() -> None:
    limits = dict(re.findall(r"(?m)^ +(\w+_limit): (\d+)$", JOB.read_text()))
    assert limits.keys() == {"sample_limit", "label_limit", "label_value_length_limit"}
    assert int(limits["sample_limit"]) >= 80 * MAX_SERIES


def test_the_dashboard_is_whole() -> None:
    expressions = list_expressions()
    assert len(expressions) > 20
    for expression in expressions:
        assert re.search(r"kata_(agent|guest|hypervisor|monitor|shim|virtiofsd)_", expression)
        assert expression.count("{") == expression.count("}")
    dashboard = load()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    variables = {entry["name"] for entry in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(expressions))) - {"__rate_interval"}
    assert used | {"datasource"} == variables
