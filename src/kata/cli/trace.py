"""kata-runtime trace ID: where the time of a start went."""

from __future__ import annotations

import shutil

from kata.base.statefolder import ROOT
from kata.base.trace import read_trace
from kata.cli.timeline import render_timeline

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Draw the steps.  Raises NOT_FOUND without such a sandbox."""
    steps = read_trace(options.words[0], ROOT)
    print("\n".join(render_timeline(steps, shutil.get_terminal_size().columns)))
    return 0
