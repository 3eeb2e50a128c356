"""kata-runtime trace ID: where the time of a start went."""

from __future__ import annotations

import argparse
import shutil

from kata.base.trace import read_trace
from kata.cli.timeline import render_timeline

# Where the sandboxes' state folders are.
_ROOT = "/run/kata"


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("trace", help="draw the steps of a sandbox's start, and their times")
    verb.add_argument("id", metavar="ID", help="the sandbox: a pod's id, or a lone container's")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw the steps.  Raises NOT_FOUND without such a sandbox."""
    steps = read_trace(options.id, _ROOT)
    print("\n".join(render_timeline(steps, shutil.get_terminal_size().columns)))
