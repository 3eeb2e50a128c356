"""kata-runtime factory: the node's process that makes templates and keeps machines that wait."""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_PROGRAM = "kata-factory"
_ACTIONS = ("init", "status", "destroy")


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Become the factory's own program.  Raises NOT_FOUND where it is not installed."""
    (action,) = options.words
    if action not in _ACTIONS:
        raise KataError(
            f"factory {action}: unknown, there are {', '.join(_ACTIONS)}", Code.INVALID_ARGUMENT
        )
    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), _PROGRAM)
    config = options.text("config") or settings.config_path
    argv = [program, f"--{action}"]
    argv += ["--json"] if options.has("json") else []
    argv += ["--config", config] if config else []
    try:
        os.execv(program, argv)
    except OSError as error:
        raise KataError(f"execute {program}: {error.strerror}", Code.NOT_FOUND) from error
