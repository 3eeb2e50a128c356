"""The program: its command line, its start and its end."""

from __future__ import annotations

import signal
import socket
import subprocess
import urllib.request

import pytest

from kata.base.errors import KataError
from kata.base.version import VERSION
from kata.monitor.arguments import Options, parse_address, parse_arguments
from tools.steps import BUILD

PROGRAM = f"{BUILD}/bin/kata-monitor"
TIMEOUT_S = 30.0


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.mark.parametrize("word", ["version", "--version", "-version"])
def test_version(word: str) -> None:
    done = run(word)
    assert (done.returncode, done.stdout) == (0, f"kata-monitor version {VERSION}\n")


def test_defaults_are_upstreams() -> None:
    assert parse_arguments([]) == Options("127.0.0.1", 8090, "", "info")
    given = ["-listen-address=:1", "--runtime-endpoint", "/x", "--log-level=trace"]
    assert parse_arguments(given) == Options("", 1, "/x", "debug")


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("127.0.0.1:8090", ("127.0.0.1", 8090), True),
        ("127.0.0.2:1", ("127.0.0.2", 1), True),
        ("[::1]:8090", ("::1", 8090), True),
        ("localhost:0", ("localhost", 0), True),
        (":8090", ("", 8090), False),
        ("0.0.0.0:8090", ("0.0.0.0", 8090), False),
        ("[::]:8090", ("::", 8090), False),
        ("example.org:8090", ("example.org", 8090), False),
    ],
)
def test_addresses(text: str, address: tuple[str, int], loopback: bool) -> None:
    assert parse_address(text) == address
    assert Options(*address, "", "info").is_loopback == loopback


@pytest.mark.parametrize(
    "text", ["", "8090", "host", "host:", "::1:8090", "h:65536", "h:-1", "h:٣"]
)
def test_addresses_that_are_none(text: str) -> None:
    with pytest.raises(KataError):
        parse_address(text)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--listen-address", "nowhere"), "'nowhere'"),
        (("--listen-address", "127.0.0.1:99999"), "'127.0.0.1:99999'"),
        (("--log-level", "loud"), "'loud'"),
        (("--log",), "--log"),
        (("word",), "word"),
        (("--listen-address", "192.0.2.1:8090"), "192.0.2.1:8090"),
        (("--listen-address", "no-such-host.invalid:8090"), "no-such-host.invalid:8090"),
    ],
)
def test_what_is_wrong_is_named_on_one_line(words: tuple[str, ...], named: str) -> None:
    done = run(*words)
    assert done.returncode in (1, 2)
    *logged, line = done.stderr.splitlines()
    assert line.startswith("kata-monitor: ")
    assert named in line
    assert all(line.startswith("time=") for line in logged)


def test_without_a_host_it_listens_on_both_families() -> None:
    words = [PROGRAM, "--listen-address", ":0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert "for everybody" in process.stderr.readline()
            port = int(process.stderr.readline().rpartition("port=")[2])
            for host in ("127.0.0.1", "[::1]"):
                with urllib.request.urlopen(f"http://{host}:{port}/", timeout=TIMEOUT_S) as answer:
                    assert answer.status == 200
        finally:
            process.terminate()


def test_a_port_that_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        done = run("--listen-address", address)
    assert done.returncode == 1
    assert f"listen on {address}: Address already in use" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    words = ["--listen-address", "127.0.0.1:0", "--runtime-endpoint", "/run/c.sock"]
    with subprocess.Popen([PROGRAM, *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        warning, ready = process.stderr.readline(), process.stderr.readline()
        assert "level=warning" in warning
        assert "/run/c.sock" in warning
        port = int(ready.rpartition("port=")[2])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=TIMEOUT_S) as answer:
            assert answer.status == 200
        # A connection that is open, and says nothing, does not hold it up.
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(number)
            assert process.wait(TIMEOUT_S) == 0
        assert process.stderr.read() == ""
