"""HTTP: takes requests for pages, sends them in pieces, compressed for those who accept that."""

from __future__ import annotations

import errno
import socket
import socketserver
import sys
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kata.base.errors import KataError, describe_error
from kata.base.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from _typeshed import ReadableBuffer, WriteableBuffer

    from kata.base.log import Logger
    from kata.monitor.pages import Page, Pages

# Of a connection, which is for one request.  Prometheus gives a scrape 10 s by default, and shims
# that hang take 5 s of it.
_LIFE_S = 20.0
# A request has some 300 bytes.  http.client would hold 6 MB of headers.
_MAX_REQUEST = 16 << 10
# Each takes a thread.
_MAX_CONNECTIONS = 64
# Of accept(2), whose connection then stays in the queue.
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# The metrics of many sandboxes are so alike that more effort saves little.
_GZIP_LEVEL = 1
_GZIP_FORMAT = 16 + zlib.MAX_WBITS


class MonitorServer(ThreadingHTTPServer):
    """Serves pages, a thread a connection.

    Its owner waits until it can be read and calls ``handle_request`` then, which returns at once.
    """

    timeout = 0

    daemon_threads = True
    # Whoever still waits for a hung shim must not hold up the end.
    block_on_close = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], pages: Pages, log: Logger) -> None:
        """Listen on a host, which may be a name, and a port.  Raises KataError."""
        self.pages = pages
        self.log = log
        # Whether connections have to wait until descriptors are free, of which nobody tells.
        self.is_short = False
        self._slots = threading.BoundedSemaphore(_MAX_CONNECTIONS)
        self._is_full = False
        host, port = address
        # The socket of all IPv6 addresses takes connections of both families.
        takes_both = not host and socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if takes_both else socket.AF_UNSPEC
        try:
            found = socket.getaddrinfo(
                host or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            self.address_family = found[0][0]
            super().__init__((str(found[0][4][0]), port), _Handler)
        except OSError as error:
            raise KataError(
                f"listen on {host}:{port}: {error.strerror}",
                hint="give another by --listen-address",
            ) from error

    def server_bind(self) -> None:
        """Bind without asking a name server for the host's name, as HTTPServer does."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            taken, client = super().get_request()
        except OSError as error:
            if error.errno in _SHORTAGES and not self.is_short:
                self.log.warning("connections wait", reason=describe_error(error))
                self.is_short = True
            raise
        self.is_short = False
        return _Connection(taken), client

    def handle_timeout(self) -> None:
        """Note that nobody waits."""
        self.is_short = False

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin a thread for a connection, or close it if it is one too many."""
        was_full, self._is_full = self._is_full, not self._slots.acquire(blocking=False)
        if self._is_full:
            if not was_full:
                self.log.warning("connections refused", reason=f"{_MAX_CONNECTIONS} are open")
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no more threads
            self._slots.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what ended a connection, mostly a client that went."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.log.debug("connection ended", reason=describe_error(error))
        else:
            self.log.error("request failed", exc=error)


class _Connection(socket.socket):
    """A connection that takes little time and memory, whatever its client does."""

    def __init__(self, taken: socket.socket) -> None:
        """``taken`` becomes this object's."""
        super().__init__(fileno=taken.detach())
        self._deadline = time.monotonic() + _LIFE_S
        self._left_bytes = _MAX_REQUEST

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        """Receive.  Raises OSError as well if it takes too long, or is too much."""
        self._limit_time()
        received = super().recv_into(buffer, nbytes, flags)
        self._left_bytes -= received
        if self._left_bytes < 0:
            raise OSError(errno.EMSGSIZE, f"a request has at most {_MAX_REQUEST} bytes")
        return received

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send.  Raises OSError as well if it takes too long."""
        self._limit_time()
        super().sendall(data, flags)

    def _limit_time(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError(errno.ETIMEDOUT, f"a connection has {_LIFE_S:g} s")
        self.settimeout(left_s)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"kata-monitor/{VERSION}"
    sys_version = ""
    server: MonitorServer

    def do_GET(self) -> None:
        """Answer with a page."""
        accept = self.headers.get("Accept", "")
        with self.server.pages.answer(self.path, accept) as page:
            self._send(page)

    def do_HEAD(self) -> None:
        """Answer with a page's head."""
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's
        """Log a request, or what is wrong with it."""
        self.server.log.debug("request", line=format % args)

    def _send(self, page: Page) -> None:
        pieces: Iterable[bytes] = (piece.encode() for piece in page.pieces)
        zipped = "gzip" in self.headers.get("Accept-Encoding", "")
        chunked = self.request_version == "HTTP/1.1"
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Connection", "close")
        if zipped:
            pieces = _compress(pieces)
            self.send_header("Content-Encoding", "gzip")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.command == "HEAD":
            return
        for piece in pieces:
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")


def _compress(pieces: Iterable[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FORMAT)
    for piece in pieces:
        yield compressor.compress(piece)
    yield compressor.flush()
