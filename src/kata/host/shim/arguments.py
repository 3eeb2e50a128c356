"""The shim's command line, in the style of Go's flags (containerd, "Binary invocation")."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

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
