"""kata-runtime: what an operator asks of a node's sandboxes.  Each verb has a file of its own."""

from __future__ import annotations

import argparse
import sys

from kata.base.errors import KataError, describe_error
from kata.cli import factory, trace

_VERBS = (factory, trace)


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="kata-runtime", description=__doc__)
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for verb in _VERBS:
        verb.add_verb(verbs)
    options = parser.parse_args()
    try:
        options.run(options)
    except (KataError, OSError) as error:
        print(f"kata-runtime: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
