"""What local users can cost: connections, requests, answers and the time of each are bounded."""

from __future__ import annotations

import itertools
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kata.monitor import pages, server
from tests.monitor.conftest import Monitor
from tools.steps import CHECKOUT

TIMEOUT_S = 30.0
SLOTS, CONNECTIONS, DESCRIPTORS = 4, 64, 40
# With few descriptors; it ends with its standard input.
PROGRAM = """\
import os, sys
from kata.base.log import Logger
from kata.monitor.arguments import Options
from kata.monitor.main import run
run(Options("127.0.0.1", 0, "", "info"), sys.argv[1], 0, Logger(lambda line: os.write(1, line)))
"""


@pytest.fixture
def clients(monitor: Monitor) -> Iterator[Callable[[], socket.socket]]:
    """Connections to the monitor, which end with the test."""
    with ExitStack() as opened:
        address = ("127.0.0.1", monitor.port)
        yield lambda: opened.enter_context(socket.create_connection(address, TIMEOUT_S))


def take_slot(clients: Callable[[], socket.socket]) -> socket.socket:
    """Have a scrape whose answer has begun, and is not read."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        client = clients()
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        if client.recv(12) == b"HTTP/1.1 200":
            return client
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_all(client: socket.socket) -> bytes:
    """Read to the end, also one that is no good."""
    data = b""
    try:
        while chunk := client.recv(1 << 16):
            data += chunk
    except ConnectionResetError:
        pass
    return data


def test_a_scrape_counts_until_it_has_been_sent(
    monitor: Monitor, clients: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that do not read get no further scrapes, and after some time no more of theirs."""
    monkeypatch.setattr(server, "_LIFE_S", 5.0)
    monkeypatch.setattr(pages, "merge", lambda _: itertools.repeat("x" * 100_000))
    for _ in range(SLOTS):
        take_slot(clients)
    assert monitor.get("/metrics").status == 503
    assert monitor.get("/agent-url?sandbox=a").status == 503
    assert monitor.get("/sandboxes").status == 200
    for _ in range(SLOTS):
        take_slot(clients)


def test_clients_that_leave_give_their_slots_back(
    monitor: Monitor, clients: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LIFE_S", TIMEOUT_S * 3)
    monkeypatch.setattr(pages, "merge", lambda _: itertools.repeat("x" * 100_000))
    for _ in range(3):
        for client in [take_slot(clients) for _ in range(SLOTS)]:
            client.close()


def test_a_request_that_dribbles(
    monitor: Monitor, clients: Callable[[], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_LIFE_S", 0.5)
    client = clients()
    began = time.monotonic()
    while not select.select([client], [], [], 0.05)[0]:
        client.sendall(b"G")
        assert time.monotonic() - began < TIMEOUT_S
    assert read_all(client) == b""


def test_a_request_that_is_too_long(monitor: Monitor, clients: Callable[[], socket.socket]) -> None:
    header = b"X: " + b"x" * 50_000 + b"\r\n"
    client = clients()
    client.sendall(b"GET / HTTP/1.1\r\n" + header + b"\r\n")
    assert read_all(client) == b""
    assert monitor.get("/", Long="x" * 10_000).status == 200


def test_connections_are_few(monitor: Monitor, clients: Callable[[], socket.socket]) -> None:
    idle = [clients() for _ in range(CONNECTIONS)]
    for _ in range(3):
        assert read_all(clients()) == b""
    refused = [line for line in monitor.log if b"connections refused" in line]
    assert len(refused) == 1
    for client in idle:
        client.close()
    client = clients()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert read_all(client).startswith(b"HTTP/1.1 200 ")


def test_a_connection_is_for_one_request(clients: Callable[[], socket.socket]) -> None:
    client = clients()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n" * 2)
    assert read_all(client).count(b"HTTP/1.1 ") == 1


def test_no_descriptors_left(tmp_path: Path) -> None:
    """Connections wait, the processor does not, and those that wait are served afterwards."""
    with ExitStack() as opened:
        process = opened.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, f"{tmp_path}/kata"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert process.stdin is not None
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline().rpartition(b"port=")[2]))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        *idle, last = [
            opened.enter_context(socket.create_connection(address, TIMEOUT_S))
            for _ in range(DESCRIPTORS)
        ]
        deadline = time.monotonic() + TIMEOUT_S
        while len(os.listdir(f"/proc/{process.pid}/fd")) < DESCRIPTORS:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        before = measure_cpu(process.pid)
        time.sleep(1.0)
        assert measure_cpu(process.pid) - before < 0.3
        last.sendall(b"GET / HTTP/1.1\r\n\r\n")
        for client in idle:
            client.close()
        assert read_all(last).startswith(b"HTTP/1.1 200 ")
        process.stdin.close()
        assert process.stdout.read().count(b"connections wait") == 1
        assert process.wait(TIMEOUT_S) == 0


def test_the_unit_bounds_threads_and_memory() -> None:
    unit = Path(CHECKOUT, "config", "systemd", "kata-monitor.service").read_text()
    limits = dict(re.findall(r"(?m)^(TasksMax|MemoryMax)=(\d+)", unit))
    assert limits.keys() == {"TasksMax", "MemoryMax"}
    # A thread for each, and the program's own.
    assert int(limits["TasksMax"]) > CONNECTIONS + 1


def measure_cpu(pid: int) -> float:
    """Return the processor time of a process in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
