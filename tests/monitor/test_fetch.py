"""Answers over Unix sockets: whole ones, and all ways in which there is none."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.base.statefolder import SOCKET
from kata.monitor.fetch import MAX_BYTES, Answer, Request, fetch, fetch_all
from tests.support.monitored import METRICS, FakeShim, make_answer

TIMEOUT_S = 30.0
# Of those that are expected to hang.
SHORT_S = 0.3


def ask(shim: FakeShim, timeout_s: float = TIMEOUT_S) -> Answer:
    return fetch(Request(str(shim.folder / SOCKET), "/metrics"), timeout_s)


def test_an_answer(tmp_path: Path) -> None:
    assert ask(FakeShim(tmp_path, "s")) == Answer(200, METRICS)


def test_a_refusal_is_an_answer(tmp_path: Path) -> None:
    shim = FakeShim(tmp_path, "s")
    shim.answers["/metrics"] = make_answer(b"no such\n", "404 Not Found")
    assert ask(shim) == Answer(404, b"no such\n")


def test_a_large_answer_that_comes_in_pieces(tmp_path: Path) -> None:
    body = METRICS * 2000
    shim = FakeShim(tmp_path, "s", body)

    def send(sock: socket.socket, answer: bytes) -> None:
        for start in range(0, len(answer), 99_991):
            sock.sendall(answer[start : start + 99_991])

    shim.send = send
    assert ask(shim).body == body


def test_an_answer_is_whole_by_its_length(tmp_path: Path) -> None:
    shim = FakeShim(tmp_path, "s")
    kept = []

    def send(sock: socket.socket, answer: bytes) -> None:
        kept.append(sock.dup())
        sock.sendall(answer)

    shim.send = send
    assert ask(shim).body == METRICS
    kept[0].close()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda answer: answer[:-10], r"ends after \d+ of \d+ bytes"),
        (lambda answer: answer[:20], "no HTTP answer in 20 bytes"),
        (lambda _: b"", "no HTTP answer in 0 bytes"),
        (lambda _: b"\0" * 100_000, "no HTTP answer"),
        (lambda answer: answer.replace(b"HTTP/1.1", b"SSH-2.0"), "no HTTP status"),
        (lambda answer: answer.replace(b"Content-Length", b"X"), "no length"),
        (lambda answer: answer.replace(b"Length: ", b"Length: -"), "no length"),
        (
            lambda answer: answer.replace(b"Length: ", b"Length: 9999"),
            f"at most {MAX_BYTES} are read",
        ),
    ],
)
def test_what_is_no_answer(tmp_path: Path, change: Callable[[bytes], bytes], reason: str) -> None:
    shim = FakeShim(tmp_path, "s")
    shim.answers["/metrics"] = change(shim.answers["/metrics"])
    with pytest.raises(KataError, match=f"get {tmp_path}/s/{SOCKET}/metrics: .*{reason}"):
        ask(shim)


def test_nobody_listens(tmp_path: Path) -> None:
    shim = FakeShim(tmp_path, "s")
    shim.stop()
    with pytest.raises(KataError, match="Connection refused"):
        ask(shim)
    with pytest.raises(KataError, match="No such file"):
        fetch(Request(str(tmp_path / "none"), "/"), TIMEOUT_S)
    with pytest.raises(KataError, match="too long"):
        fetch(Request(f"/{'x' * 200}", "/"), TIMEOUT_S)


def test_one_that_dribbles_gets_no_more_time(tmp_path: Path) -> None:
    shim = FakeShim(tmp_path, "s")

    def send(sock: socket.socket, answer: bytes) -> None:
        for byte in answer:
            sock.sendall(bytes([byte]))
            time.sleep(0.01)

    shim.send = send
    with pytest.raises(KataError, match="no answer within") as caught:
        ask(shim, SHORT_S)
    assert caught.value.code == Code.DEADLINE_EXCEEDED


def test_hung_ones_do_not_hold_up_others(tmp_path: Path) -> None:
    shims = [FakeShim(tmp_path, f"s{number}") for number in range(30)]
    for shim in shims[::2]:
        shim.hang()
    requests = [Request(str(shim.folder / SOCKET), "/metrics") for shim in shims]
    began = time.monotonic()
    results = fetch_all(requests, 2.0)
    # One after the other they would take 30 s.
    assert time.monotonic() - began < 15.0
    assert [isinstance(result, Answer) for result in results] == [False, True] * 15
    for shim in shims:
        shim.stop()
