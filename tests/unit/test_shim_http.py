"""The shim's HTTP server: requests whole, in pieces, broken, and at once."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.host.shim.http import BadRequestError, HttpServer, Request, Response, read_request


def feed(data: bytes, piece: int) -> Callable[[int], bytes]:
    """Return what receives ``data`` in pieces, as a socket does."""
    rest = bytearray(data)

    def receive(limit: int) -> bytes:
        taken = bytes(rest[: min(limit, piece)])
        del rest[: len(taken)]
        return taken

    return receive


@given(body=st.binary(max_size=200), piece=st.integers(1, 64), query=st.sampled_from(["", "a=b"]))
def test_a_request_in_any_pieces(body: bytes, piece: int, query: str) -> None:
    data = b"PUT /x%s HTTP/1.1\r\nHost: shim\r\ncontent-length: %d\r\n\r\n%s" % (
        f"?{query}".encode() if query else b"",
        len(body),
        body,
    )
    assert read_request(feed(data, piece)) == Request("PUT", "/x", query, body)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no end"),
        (b"GET / HTTP/1.1\r\n", "no end"),
        (b"nonsense\r\n\r\n", "is no HTTP/1 request"),
        (b"GET / HTTP/2\r\n\r\n", "is no HTTP/1 request"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\nfour", "ends after 4 of 9"),
        (b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "Content-Length '-1'"),
        (b"PUT / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", "more than"),
        (b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "in pieces"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 9000, "its head has more than"),
    ],
)
def test_what_is_no_request(data: bytes, reason: str) -> None:
    with pytest.raises(BadRequestError, match=reason):
        read_request(feed(data, 4096))


@given(st.binary(max_size=300))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    try:
        assert isinstance(read_request(feed(data, 50)), Request)
    except BadRequestError:
        pass


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    def respond(request: Request) -> Response:
        if request.path == "/missing":
            raise KataError("find it: there is none", Code.NOT_FOUND, "look elsewhere")
        if request.path == "/broken":
            raise ZeroDivisionError("by zero")
        if request.path == "/gone":
            raise FileNotFoundError(2, "No such file or directory", "/dev/x")
        return Response(request.body or b"nothing")

    place = f"{tmp_path}/s"
    server = HttpServer(place, respond, Logger(lambda line: None))
    yield place
    server.close()
    assert not os.path.exists(place)
    server.close()


def exchange(path: str, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(path)
        client.sendall(data)
        answer = b""
        while more := client.recv(4096):
            answer += more
        return answer


def test_answers_and_errors(path: str) -> None:
    assert exchange(path, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    missing = exchange(path, b"GET /missing HTTP/1.1\r\n\r\n")
    assert missing.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert missing.endswith(b"find it: there is none (look elsewhere)\n")
    assert exchange(path, b"GET /broken HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    gone = exchange(path, b"GET /gone HTTP/1.1\r\n\r\n")
    assert gone.startswith(b"HTTP/1.1 404 ")
    assert b"/dev/x" in gone
    assert exchange(path, b"what?\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_one_that_says_nothing_delays_nobody(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(path)
        answers: list[bytes] = []
        request = b"PUT / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi"
        threads = [
            threading.Thread(target=lambda: answers.append(exchange(path, request)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer[-2:] for answer in answers] == [b"hi"] * 8


def test_it_goes_on_when_descriptors_were_short(path: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        try:
            client.connect(path)
            time.sleep(0.2)  # the server finds that it has none
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")
    # accept(2) takes its descriptor before it waits: the next one is what failed.
    assert exchange(path, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(KataError, match="listen on"):
        HttpServer(f"{tmp_path}/none/s", lambda _: Response(b""), Logger(lambda line: None))
