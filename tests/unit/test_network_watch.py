"""Changes of real namespaces are noticed, and told once for all that comes together."""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator

import pytest

from kata.host.network.watch import NetworkWatch
from tests.support.netns import Netns, making_namespaces

WAIT_S = 10


@pytest.fixture
def netns() -> Iterator[Netns]:
    with making_namespaces() as make:
        yield make()


def start(netns: Netns) -> tuple[NetworkWatch, queue.Queue[None]]:
    fd = os.open(netns.path, os.O_RDONLY)
    try:
        watch = NetworkWatch(fd)
    finally:
        os.close(fd)
    told: queue.Queue[None] = queue.Queue()
    watch.start(lambda: told.put(None))
    return watch, told


def test_links_addresses_and_routes_are_told(netns: Netns) -> None:
    watch, told = start(netns)
    for command in (
        "link add eth0 type veth peer name eth1",
        "link set eth0 up",
        "address add 10.0.0.2/24 dev eth0",
        "address add fd00::2/64 dev eth0 nodad",
        "route add 10.1.0.0/16 dev eth0",
        "link delete eth0",
    ):
        netns.ip(command)
        told.get(timeout=WAIT_S)
    watch.close()


def test_what_came_before_the_start_is_told(netns: Netns) -> None:
    fd = os.open(netns.path, os.O_RDONLY)
    watch = NetworkWatch(fd)
    os.close(fd)
    netns.ip("link add eth0 type veth peer name eth1")
    told: queue.Queue[None] = queue.Queue()
    watch.start(lambda: told.put(None))
    told.get(timeout=WAIT_S)
    watch.close()


def test_nothing_is_told_after_the_end(netns: Netns) -> None:
    before = len(os.listdir("/proc/self/fd"))
    watch, told = start(netns)
    watch.close()
    watch.close()
    netns.ip("link add eth0 type veth peer name eth1")
    with pytest.raises(queue.Empty):
        told.get(timeout=0.5)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_watch_that_was_never_started_ends(netns: Netns) -> None:
    fd = os.open(netns.path, os.O_RDONLY)
    NetworkWatch(fd).close()
    os.close(fd)
