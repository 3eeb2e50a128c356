"""kata-runtime metrics ID: a sandbox's metrics, as Prometheus reads them."""

from __future__ import annotations

from kata.cli.management import ask, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print them.  Raises NOT_FOUND without such a sandbox."""
    show(ask(options.words[0], "GET", "/metrics"))
    return 0
