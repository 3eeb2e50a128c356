"""containerd-shim-kata-v2: read the command line, do one thing.  Imports what that thing needs.

The protocol of the command line is containerd's (core/runtime/v2/README.md, "Binary invocation").
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import KataError, describe_error
from kata.host.shim.arguments import Arguments, parse_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.host.shim.handover import Daemon

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


def main() -> None:
    """Run; does not return where a daemon was made."""
    try:
        status, daemon = run(parse_arguments(sys.argv[1:]))
        if daemon:
            daemon.tell_known()
            os._exit(status)  # at once: killed from now on, it would be a failure of what is done
        sys.exit(status)
    except KataError as error:
        print(f"containerd-shim-kata-v2: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)


def run(arguments: Arguments) -> tuple[int, Daemon | None]:
    """Do what the command line asks for; returns the exit status, and a daemon that was made."""
    daemon = None
    if arguments.switches & {"h", "help"}:
        print(_USAGE, end="")
    elif "v" in arguments.switches:
        from kata.base.version import VERSION

        print(f"containerd-shim-kata-v2:\n  Version: {VERSION}")
    elif "info" in arguments.switches:
        from kata.host.shim.info import print_info

        print_info()
    elif arguments.action == "start":
        from kata.host.shim.start import start

        daemon = start(arguments)
    elif arguments.action == "delete":
        from kata.host.shim.delete import delete

        delete(arguments)
    else:
        print(_USAGE, end="", file=sys.stderr)
        return 2, None
    return 0, daemon
