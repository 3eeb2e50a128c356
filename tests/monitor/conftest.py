"""A monitor of a folder of the test's own, in this process, spoken to by HTTP."""

from __future__ import annotations

import gzip
import http.client
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from kata.base.log import Logger
from kata.monitor import main, scrape
from kata.monitor.arguments import Options
from tests.support.monitored import FakeShim

TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Got:
    status: int
    headers: dict[str, str]
    text: str


class Monitor:
    """A monitor that runs, and the folder of its sandboxes."""

    def __init__(self, root: Path, port: int, log: list[bytes]) -> None:
        self.root = root
        self.port = port
        self.log = log

    def get(self, target: str, method: str = "GET", **headers: str) -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request(
            method, target, headers={k.replace("_", "-"): headers[k] for k in headers}
        )
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        found = dict(answer.getheaders())
        if found.get("Content-Encoding") == "gzip" and body:
            body = gzip.decompress(body)
        return Got(answer.status, found, body.decode())

    def add(self, *names: str, metrics: bytes | None = None) -> list[FakeShim]:
        """Have sandboxes, and wait until the monitor has them."""
        given = {} if metrics is None else {"metrics": metrics}
        shims = [FakeShim(self.root, name, **given) for name in names]
        self.wait_for(set(names))
        return shims

    def wait_for(self, names: set[str], gone: frozenset[str] = frozenset()) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            found = set(self.get("/sandboxes").text.split())
            if names <= found and not gone & found:
                return
            assert time.monotonic() < deadline, found
            time.sleep(0.02)


@pytest.fixture
def monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    """A monitor whose sandboxes have little time to answer."""
    monkeypatch.setattr(main, "Scraper", partial(scrape.Scraper, timeout_s=1.0))
    root = tmp_path / "kata"
    lines: list[bytes] = []
    ready = threading.Event()

    def note(line: bytes) -> None:
        lines.append(line)
        ready.set()

    reading, writing = os.pipe()
    options = Options("127.0.0.1", 0, "", "info")
    thread = threading.Thread(
        target=main.run, args=(options, str(root), reading, Logger(note)), daemon=True
    )
    thread.start()
    assert ready.wait(TIMEOUT_S)
    yield Monitor(root, int(lines[0].rpartition(b"port=")[2]), lines)
    os.write(writing, b"x")
    thread.join(TIMEOUT_S)
    assert not thread.is_alive()
    os.close(reading)
    os.close(writing)
