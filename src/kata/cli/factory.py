"""kata-runtime factory: the node's process that makes templates and keeps machines that wait."""

from __future__ import annotations

import argparse
import os
import sys

from kata.base.errors import Code, KataError

_PROGRAM = "kata-factory"
_HELP = {
    "init": "make the template of a sandbox without limits now, and start the factory",
    "status": "say whether it runs, which machines wait and which templates there are",
    "destroy": "end it and remove all templates; sandboxes go on",
}


def add_verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb to the command line."""
    verb = verbs.add_parser("factory", help="templates and machines that wait")
    actions = verb.add_subparsers(required=True, metavar="ACTION")
    for name, text in _HELP.items():
        action = actions.add_parser(name, help=text)
        action.add_argument("--config", default="", help="configuration.toml, if another")
        if name == "status":
            action.add_argument("--json", action="store_true", help="for programs")
        action.set_defaults(run=run, action=name, json=False)


def run(options: argparse.Namespace) -> None:
    """Become the factory's own program.  Raises NOT_FOUND where it is not installed."""
    program = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), _PROGRAM)
    argv = [program, f"--{options.action}"]
    argv += ["--json"] if options.json else []
    argv += ["--config", options.config] if options.config else []
    try:
        os.execv(program, argv)
    except OSError as error:
        raise KataError(f"execute {program}: {error.strerror}", Code.NOT_FOUND) from error
