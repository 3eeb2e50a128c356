"""HTTP: takes requests for pages, sends them in pieces, compressed for those who accept that."""

from __future__ import annotations

import socket
import socketserver
import sys
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kata.base.errors import KataError, describe_error
from kata.base.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kata.base.log import Logger
    from kata.monitor.pages import Page, Pages

# For each read and write of a connection.
_TIMEOUT_S = 30.0
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
        host, port = address
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
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
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what ended a connection, mostly a client that went."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self.log.debug("connection ended", reason=describe_error(error))
        else:
            self.log.error("request failed", exc=error)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = f"kata-monitor/{VERSION}"
    sys_version = ""
    timeout = _TIMEOUT_S
    server: MonitorServer

    def do_GET(self) -> None:
        """Answer with a page."""
        accept = self.headers.get("Accept", "")
        self._send(self.server.pages.answer(self.path, accept))

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
        if zipped:
            pieces = _compress(pieces)
            self.send_header("Content-Encoding", "gzip")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
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
