"""kata-runtime iptables get|set: the packet filter of a sandbox's guest."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.cli.management import ask, read_input, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print the rules as iptables-save does, or replace the tables that a file names."""
    sandbox = options.text("sandbox-id")
    if not sandbox:
        raise KataError("iptables: --sandbox-id is missing", Code.INVALID_ARGUMENT)
    path = "/ip6tables" if options.has("v6") else "/iptables"
    match options.words:
        case ["get"]:
            show(ask(sandbox, "GET", path))
        case ["set", file]:
            show(ask(sandbox, "PUT", path, read_input(file)))
        case _:
            raise KataError("iptables: neither get nor set FILE", Code.INVALID_ARGUMENT)
    return 0
