"""kata-monitor as a program, and a real Prometheus that scrapes it; both on loopback."""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.other_debian import unpack
from tools.steps import BUILD, CHECKOUT

# Sandboxes of other tests answer slowly when processors are emulated.
TIMEOUT_S = 90.0
# The scrape job that is shipped.
JOB = Path(CHECKOUT, "config", "prometheus", "kata.yml")

# Labels and value.
Sample = tuple[dict[str, str], float]


class MonitorProgram:
    """kata-monitor of this checkout."""

    def __init__(self) -> None:
        self.port = find_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, at the same port each time."""
        program = f"{BUILD}/bin/kata-monitor"
        address = f"127.0.0.1:{self.port}"
        self._process = subprocess.Popen(
            [program, "--listen-address", address], stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    def stop(self) -> None:
        """End it.  May be called twice."""
        if self._process is not None:
            self._process.terminate()
            assert self._process.wait(TIMEOUT_S) == 0
            self._process = None

    def get(self, target: str) -> str:
        """Return a page.  Raises HTTPError."""
        url = f"http://127.0.0.1:{self.port}{target}"
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
            text: str = answer.read().decode()
            return text

    def list_sandboxes(self) -> list[str]:
        """Return the ids of all sandboxes, other tests' too."""
        return self.get("/sandboxes").split()

    def count_failures(self) -> int:
        """Return how many scrapes of sandboxes have failed."""
        found = re.search(r"(?m)^kata_monitor_scrape_failed_count (\d+)$", self.get("/metrics"))
        assert found
        return int(found[1])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None
        try:
            return bool(self.get("/"))
        except urllib.error.URLError:
            return False


class Prometheus:
    """Debian's Prometheus, unpacked and not installed."""

    def __init__(self, folder: Path, target_port: int) -> None:
        """``folder`` is for its configuration and its data."""
        self._port = find_port()
        job = JOB.read_text().replace("127.0.0.1:8090", f"127.0.0.1:{target_port}")
        job = re.sub(r"(scrape_(?:interval|timeout)): \d+s", r"\1: 2s", job)
        (folder / "prometheus.yml").write_text(job)
        command = [
            find_program("prometheus"),
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with open(folder / "log", "wb") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log, cwd=folder)
        self._log = folder / "log"
        wait_until(self._is_ready)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(TIMEOUT_S)

    def query(self, expression: str) -> list[Sample]:
        """Evaluate an expression now.  Fails the test if it is none."""
        answer = self._get(f"/api/v1/query?{urllib.parse.urlencode({'query': expression})}")
        assert answer["status"] == "success", (expression, answer)
        assert answer["data"]["resultType"] == "vector", expression
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def wait_for(self, expression: str) -> list[Sample]:
        """Return what an expression gives once that is something."""
        found: list[Sample] = []

        def look() -> bool:
            found[:] = self.query(expression)
            return bool(found)

        wait_until(look, expression)
        return found

    def wait_for_none(self, expression: str) -> None:
        """Return once an expression gives nothing."""
        wait_until(lambda: not self.query(expression), expression)

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def _get(self, target: str) -> Any:
        url = f"http://127.0.0.1:{self._port}{target}"
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)


def check_metrics(text: str) -> str:
    """Return what ``promtool check metrics`` criticizes; fails where the text cannot be read."""
    done = subprocess.run(
        [find_program("promtool"), "check", "metrics"],
        input=text,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    # 3 is for names that it would have chosen otherwise; upstream chose these.
    assert done.returncode in (0, 3), done.stderr[-2000:]
    return done.stderr


def find_program(name: str) -> str:
    """Return a program of Debian's package, which is not installed: its service would start."""
    return f"{unpack('bookworm', ['prometheus'])}/usr/bin/{name}"


def find_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def wait_until(holds: Callable[[], bool], what: str = "") -> None:
    """Return once something holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
