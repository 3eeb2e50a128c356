"""kata-runtime policy set FILE: what the agent of a sandbox may be asked, in Rego."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.cli.management import ask, read_input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Give it to the agent.  Raises UNIMPLEMENTED where that has no policies."""
    sandbox = options.text("sandbox-id")
    if not sandbox:
        raise KataError("policy: --sandbox-id is missing", Code.INVALID_ARGUMENT)
    action, *files = options.words
    if action != "set" or len(files) != 1:
        raise KataError("policy: not set FILE", Code.INVALID_ARGUMENT)
    ask(sandbox, "PUT", "/policy", read_input(files[0]))
    return 0
