"""Pods by the CRI: time to a running container, and their network; kata against runc, in turn.

The processors of a pod under TCG are emulated: what crosses the guest's network stack is slower by
about their factor, whatever the host does.
"""

from __future__ import annotations

import re
import tempfile
import urllib.request
from pathlib import Path

from bench.samples import Figure, time_call, time_pairs
from kata.base.statefolder import ROOT
from kata.host.hypervisor.accelerator import choose_accelerator
from tests.support.cri.bed import Node, make_node
from tests.support.cri.pods import Container, Pod

_HANDLERS = ("kata", "runc")
_MIB = 1 << 20
_CPU = {"kvm": "CPU by KVM", "tcg": "CPU emulated"}[choose_accelerator("auto", ROOT).name]
_SIZE_MIB = 16
_REQUESTS = 20
_PORT = 8080


def measure_pods(rounds: int) -> list[Figure]:
    """Return all figures of pods, from a node of their own."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-pods-") as folder:
        with make_node(Path(folder)) as node:
            return [*_measure_start(node, rounds), *_measure_network(node, rounds)]


def _measure_start(node: Node, rounds: int) -> list[Figure]:
    pods: list[Pod] = []

    def start(handler: str) -> None:
        pods.append(Pod(node, handler))
        pods[-1].run("sleep", "100000")

    try:
        kata, runc = time_pairs(lambda: start("kata"), lambda: start("runc"), rounds)
    finally:
        for pod in pods:
            pod.remove()
    return _figures("RunPodSandbox to a running container", "s", kata, runc)


def _measure_network(node: Node, rounds: int) -> list[Figure]:
    servers = [Pod(node, handler) for handler in _HANDLERS]
    peers = [Pod(node, handler) for handler in _HANDLERS]
    try:
        for pod in servers:
            _serve(pod)
        clients = [pod.run("sleep", "100000") for pod in peers]
        return [*_from_host(servers, rounds), *_from_pods(servers, clients, rounds)]
    finally:
        for pod in (*servers, *peers):
            pod.remove()


def _serve(pod: Pod) -> None:
    script = (
        f"mkdir /www; echo x > /www/small; head -c {_SIZE_MIB * _MIB} /dev/zero > /www/big;"
        f"httpd -f -p {_PORT} -h /www"
    )
    server = pod.run("sh", "-c", script)
    server.sh(f"until nc -w 1 127.0.0.1 {_PORT} </dev/null; do sleep 0.1; done")


def _from_host(pods: list[Pod], rounds: int) -> list[Figure]:
    def fetch(pod: Pod, name: str, times: int = 1) -> None:
        for _ in range(times):
            with urllib.request.urlopen(f"http://{addresses[pod.id]}:{_PORT}/{name}") as answer:
                answer.read()

    addresses = {pod.id: pod.ip for pod in pods}
    kata, runc = pods
    big = time_pairs(lambda: fetch(kata, "big"), lambda: fetch(runc, "big"), rounds)
    small = time_pairs(
        lambda: fetch(kata, "small", _REQUESTS), lambda: fetch(runc, "small", _REQUESTS), rounds
    )
    return [
        *_figures("TCP host to pod", "MiB/s", *(_rates(times) for times in big)),
        *_figures("HTTP request host to pod", "ms", *(_latencies(times) for times in small)),
    ]


def _from_pods(pods: list[Pod], clients: list[Container], rounds: int) -> list[Figure]:
    """Measure between two pods of the same kind; ``wget`` is a process of its own each time."""
    big, small, pings = [], [], []
    for pod, client in zip(pods, clients, strict=True):
        url = f"http://{pod.ip}:{_PORT}"
        loop = f"i=0; while [ $i -lt {_REQUESTS} ]; do wget -q -O - {url}/small; i=$((i+1)); done"
        big.append(_time_inside(client, f"wget -q -O /dev/null {url}/big", rounds))
        small.append(_time_inside(client, loop, rounds))
        pings.append([_ping(client, pod.ip) for _ in range(rounds)])
    return [
        *_figures("TCP pod to pod", "MiB/s", *(_rates(times) for times in big)),
        *_figures("wget pod to pod, a process each", "ms", *(_latencies(t) for t in small)),
        *_figures("ping pod to pod", "ms", *pings),
    ]


def _time_inside(client: Container, script: str, rounds: int) -> list[float]:
    # The time of an exec itself is no part of what is asked.
    empty = min(time_call(lambda: client.sh("true")) for _ in range(rounds))
    return [max(time_call(lambda: client.sh(script)) - empty, 0.001) for _ in range(rounds)]


def _ping(client: Container, address: str) -> float:
    """Return the mean round trip in milliseconds."""
    found = re.search(r"= [\d.]+/([\d.]+)/", client.sh(f"ping -A -q -c {_REQUESTS} {address}"))
    assert found, "ping has not told its times"
    return float(found[1])


def _rates(times: list[float]) -> list[float]:
    return [_SIZE_MIB / seconds for seconds in times]


def _latencies(times: list[float]) -> list[float]:
    return [seconds * 1000 / _REQUESTS for seconds in times]


def _figures(name: str, unit: str, kata: list[float], runc: list[float]) -> list[Figure]:
    return [
        Figure(f"{name}, kata ({_CPU})", unit, tuple(kata)),
        Figure(f"{name}, runc", unit, tuple(runc)),
    ]
