"""kata-monitor beside many sandboxes, whose sockets answer at once with what a large one says."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.samples import Figure, time_call
from tests.support.monitored import METRICS, FakeShim

_COUNT = 100
# What upstream's documentation gives for a sandbox: twice what ours says.
_TEXT_BYTES = 135_000
_TIMEOUT_S = 60.0
# Prometheus gives a scrape 10 s.
_LIMIT_S = 2.0
# The program, with another folder; it ends with its standard input.
_PROGRAM = """\
import os, sys
from kata.base.log import Logger
from kata.monitor.arguments import Options
from kata.monitor.main import run
run(Options("127.0.0.1", 0, "", "info"), sys.argv[1], 0, Logger(lambda line: os.write(1, line)))
"""


def measure_monitor(rounds: int) -> Iterator[Figure]:
    """Time a scrape of 100 sandboxes, and a scrape when half of them hang."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-monitor-") as folder:
        shims = [FakeShim(Path(folder), f"sandbox-{n}", make_text()) for n in range(_COUNT)]
        with _monitor(folder) as port:
            times = tuple(time_call(lambda: scrape(port)) for _ in range(rounds))
            yield Figure(f"scrape of {_COUNT} sandboxes of 135 kB", "s", times, limit=_LIMIT_S)
            for shim in shims[::2]:
                shim.hang()
            times = tuple(time_call(lambda: scrape(port)) for _ in range(rounds))
            yield Figure("the same when half of them hang", "s", times, limit=5.0 + _LIMIT_S)
        for shim in shims:
            shim.stop()


def make_text() -> bytes:
    """Return metrics of a sandbox of the usual number of lines."""
    lines = [b"# TYPE kata_guest_vm_stat gauge\n"]
    size = len(METRICS)
    while size < _TEXT_BYTES:
        lines.append(b'kata_guest_vm_stat{item="nr_something_%d"} %d\n' % (len(lines), size))
        size += len(lines[-1])
    return METRICS + b"".join(lines)


def scrape(port: int) -> None:
    """Get all metrics as Prometheus does, compressed."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert len(answer.read()) > _TEXT_BYTES
    connection.close()


@contextmanager
def _monitor(folder: str) -> Iterator[int]:
    command = [sys.executable, "-c", _PROGRAM, folder]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition("port=")[2])
        process.stdin.close()
