"""Pods in kata-monitor: their names, and the dashboard's expressions on a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pods.conftest import PodMaker
from tests.support.cri.pods import Pod
from tests.support.dashboard import fill_in, list_expressions
from tests.support.prometheus import MonitorProgram, Prometheus

# Guests have no disks unless a volume is one.
_NEEDS_DISK = "kata_guest_diskstat"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    monitor = MonitorProgram()
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), monitor.port)
    yield server
    server.stop()
    monitor.stop()


def test_samples_have_their_pods_names(shared_pod: Pod, prometheus: Prometheus) -> None:
    ((labels, _),) = prometheus.wait_for(f'kata_shim_threads{{sandbox_id="{shared_pod.id}"}}')
    metadata = shared_pod.config.metadata
    assert labels["cri_name"] == metadata.name
    assert labels["cri_namespace"] == metadata.namespace
    assert labels["cri_uid"] == metadata.uid
    by_name = f'kata_guest_load{{cri_name="{metadata.name}", item="load1"}}'
    assert prometheus.query(by_name)


def test_every_expression_of_the_dashboard_has_data(
    make_pod: PodMaker, prometheus: Prometheus
) -> None:
    pod = make_pod()
    pod.run()
    name = pod.config.metadata.name
    # Rates want two samples.
    prometheus.wait_for(f'count_over_time(kata_guest_load{{cri_name="{name}"}}[1m]) >= 4')
    for expression in list_expressions():
        filled = fill_in(expression, name)
        assert prometheus.query(filled) or _NEEDS_DISK in filled, filled
        assert prometheus.query(fill_in(expression)) or _NEEDS_DISK in filled, expression
