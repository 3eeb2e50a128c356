"""kata-monitor: one process per node that gives Prometheus the metrics of all its sandboxes."""

from __future__ import annotations

import os
import select
import signal
import sys
from contextlib import closing, contextmanager

from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.base.statefolder import ROOT
from kata.monitor.arguments import parse_arguments
from kata.monitor.discovery import Discovery
from kata.monitor.own import OwnMetrics
from kata.monitor.pages import Pages
from kata.monitor.scrape import Scraper
from kata.monitor.server import MonitorServer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.monitor.arguments import Options

# How long connections wait where there are no descriptors for them, before they are tried again.
_PAUSE_MS = 500
# What is not wanted at a level, as it stands in the lines.
_DROPPED = {"warning": (b"level=info",), "error": (b"level=info", b"level=warning")}
_ENDS = (signal.SIGTERM, signal.SIGINT)


def main() -> int:
    """Serve until a signal comes; returns the exit status."""
    options = parse_arguments(sys.argv[1:])
    log = make_log(options)
    try:
        with signals_as_bytes() as stop_fd:
            run(options, ROOT, stop_fd, log)
    except (KataError, OSError) as error:
        print(f"kata-monitor: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


def run(options: Options, root: str, stop_fd: int, log: Logger) -> None:
    """Serve the sandboxes below ``root`` until ``stop_fd``, which is borrowed, can be read.

    Raises KataError if it cannot listen, or no longer follow the sandboxes.
    """
    if options.runtime_endpoint:
        log.warning(
            "runtime endpoint not used",
            endpoint=options.runtime_endpoint,
            reason="shims know their pods",
        )
    if not options.is_loopback:
        log.warning("metrics are for everybody who can reach this host", host=options.host)
    with closing(Discovery(root)) as discovery:
        pages = Pages(discovery, Scraper(log), OwnMetrics())
        with MonitorServer((options.host, options.port), pages, log) as server:
            log.info("monitor ready", host=options.host, port=server.server_port)
            _serve(discovery, server, stop_fd)


@contextmanager
def signals_as_bytes() -> Iterator[int]:
    """Have a descriptor that can be read once a signal has come that ends the program."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    previous = [signal.signal(number, lambda *_: None) for number in _ENDS]
    signal.set_wakeup_fd(writing)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(_ENDS, previous, strict=True):
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


def make_log(options: Options) -> Logger:
    """Return the program's logger, which writes to standard error what the level lets through."""
    dropped = _DROPPED.get(options.log_level, ())

    def write(line: bytes) -> None:
        if line.split(b" ", 2)[1] not in dropped:
            os.write(2, line)

    log = Logger(write, pid=os.getpid())
    log.debug_enabled = options.log_level == "debug"
    return log


def _serve(discovery: Discovery, server: MonitorServer, stop_fd: int) -> None:
    poll = select.poll()
    for fd in (discovery.fileno(), server.fileno(), stop_fd):
        poll.register(fd, select.POLLIN)
    while True:
        # What waits would wake this at once.
        poll.modify(server.fileno(), 0 if server.is_short else select.POLLIN)
        ready = [fd for fd, _ in poll.poll(_PAUSE_MS if server.is_short else None)]
        if stop_fd in ready:
            return
        discovery.update()
        if server.fileno() in ready or server.is_short:
            server.handle_request()


if __name__ == "__main__":
    sys.exit(main())
