"""containerd-shim-kata-v2: read the command line, do one thing.  Imports what that thing needs.

The protocol of the command line is containerd's (core/runtime/v2/README.md, "Binary invocation").
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError, describe_error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_USAGE = """\
usage: containerd-shim-kata-v2 [flags] start|delete
  -namespace NAME        containerd's namespace
  -address PATH          containerd's main socket
  -publish-binary PATH   accepted, not used: events go to $TTRPC_ADDRESS
  -id ID                 the container
  -bundle PATH           the bundle, for delete
  -debug                 write debug lines to the log
  -v                     print the version and exit
  -info                  print what this runtime is (protobuf) and exit
"""
_VALUES = frozenset({"namespace", "address", "publish-binary", "id", "bundle", "socket"})
_SWITCHES = frozenset({"debug", "v", "info", "h", "help"})


class Arguments:
    """The parsed command line; values not given are empty."""

    def __init__(self, values: dict[str, str], switches: set[str], action: str) -> None:
        self.namespace = values.get("namespace", "")
        self.address = values.get("address", "")
        self.id = values.get("id", "")
        self.bundle = values.get("bundle", "") or os.getcwd()
        self.switches = frozenset(switches)
        self.action = action


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse Go-style flags: one or two dashes, ``-flag value`` or ``-flag=value``."""
    values: dict[str, str] = {}
    switches: set[str] = set()
    rest = list(argv)
    while rest and rest[0].startswith("-") and rest[0].strip("-"):
        name, equals, value = rest.pop(0).lstrip("-").partition("=")
        if name in _SWITCHES:
            switches.add(name)
        elif name in _VALUES and (equals or rest):
            values[name] = value if equals else rest.pop(0)
        else:
            raise KataError(f"read command line: unknown flag -{name}", Code.INVALID_ARGUMENT)
    return Arguments(values, switches, rest[0] if rest else "")


def main() -> None:
    """Run; does not return where a daemon was made."""
    try:
        sys.exit(run(parse_arguments(sys.argv[1:])))
    except KataError as error:
        print(f"containerd-shim-kata-v2: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)


def run(arguments: Arguments) -> int:
    """Do what the command line asks for; returns the exit status."""
    if arguments.switches & {"h", "help"}:
        print(_USAGE, end="")
    elif "v" in arguments.switches:
        from kata.host.version import VERSION

        print(f"containerd-shim-kata-v2:\n  Version: {VERSION}")
    elif "info" in arguments.switches:
        from kata.host.shim.info import print_info

        print_info()
    elif arguments.action == "start":
        from kata.host.shim.start import start

        start(arguments)
    elif arguments.action == "delete":
        from kata.host.shim.delete import delete

        delete(arguments)
    else:
        print(_USAGE, end="", file=sys.stderr)
        return 2
    return 0
