"""The command line: upstream's flags, with one dash or two."""

from __future__ import annotations

import argparse
import ipaddress
from dataclasses import dataclass

from kata.base.errors import Code, KataError
from kata.base.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_PROGRAM = "kata-monitor"
_ADDRESS = "127.0.0.1:8090"
_MAX_PORT = 65535
# Upstream's levels, and which of ours they are.
LEVELS = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "fatal": "error",
    "panic": "error",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    # Empty for all addresses of this host.
    host: str
    port: int
    runtime_endpoint: str
    # One of the values of LEVELS.
    log_level: str

    @property
    def is_loopback(self) -> bool:
        """Whether only this host can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(words: Sequence[str]) -> Options:
    """Read the command line.  Ends the program where it is wrong, and for help and version."""
    if list(words) == ["version"]:
        words = ["--version"]
    parser = _Parser(
        _PROGRAM,
        description="Metrics of all sandboxes of this host, for Prometheus.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--listen-address",
        "-listen-address",
        type=_read_address,
        default=_ADDRESS,
        metavar="HOST:PORT",
        help=f"where to serve (default: {_ADDRESS})",
    )
    parser.add_argument(
        "--runtime-endpoint",
        "-runtime-endpoint",
        default="",
        metavar="PATH",
        help="accepted for compatibility: shims know their pods, no CRI is asked",
    )
    parser.add_argument(
        "--log-level",
        "-log-level",
        type=_read_level,
        default="info",
        metavar="LEVEL",
        help=f"the least that is logged: {', '.join(LEVELS)} (default: info)",
    )
    parser.add_argument(
        "--version", "-version", action="version", version=f"{_PROGRAM} version {VERSION}"
    )
    given = parser.parse_args(words)
    host, port = given.listen_address
    return Options(host, port, given.runtime_endpoint, given.log_level)


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``, ``[IPv6]:PORT`` or ``:PORT``.  Raises KataError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise KataError(f"{text!r} is not HOST:PORT", Code.INVALID_ARGUMENT)
    if not (port.isascii() and port.isdecimal() and int(port) <= _MAX_PORT):
        raise KataError(f"{text!r} has no port from 0 to {_MAX_PORT}", Code.INVALID_ARGUMENT)
    return host[1:-1] if bracketed else host, int(port)


def _read_address(text: str) -> tuple[str, int]:
    try:
        return parse_address(text)
    except KataError as error:
        raise argparse.ArgumentTypeError(error.message) from error


def _read_level(text: str) -> str:
    try:
        return LEVELS[text]
    except KeyError:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(LEVELS)}") from None
