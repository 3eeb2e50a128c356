"""kata-runtime: the OCI command line, and what an operator asks of a node's sandboxes.

Each verb has a file of its own, loaded when it is called, and a row in the table of verbs.
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError, describe_error
from kata.cli.settings import Settings
from kata.cli.table import Flag, Options, UsageError, Verb, check_count, parse_words
from kata.cli.verbs import GLOBAL_FLAGS, VERBS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PROGRAM = "kata-runtime"
_HELP = Flag(("help", "h"), "show this", "switch")
# Exit statuses: runc's of a word that is no verb, and of an exec that did not run.
_NO_VERB = 3
_NO_EXEC = 255


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    try:
        given = parse_words(sys.argv[1:], GLOBAL_FLAGS)
        settings = Settings(_PROGRAM, given)
    except KataError as error:
        print(f"Incorrect Usage. {error}\n", file=sys.stdout)
        _print_overview()
        print(f"{_PROGRAM}: {error}", file=sys.stderr)
        return 1
    if given.has("version"):
        given.words = ["version"]
    if given.has("help") or not given.words or given.words[0] in ("help", "h"):
        return _help(given.words[1:])
    name, *words = given.words
    verb = _find_verb(name)
    if verb is None:
        settings.fail(KataError(f"No help topic for '{name}'", Code.NOT_FOUND))
        return _NO_VERB
    return _run(verb, settings, words)


def _run(verb: Verb, settings: Settings, words: Sequence[str]) -> int:
    try:
        options = parse_words(words, (*verb.flags, _HELP), mixed=verb.mixed)
        if options.has("help"):
            _print_usage(verb)
            return 0
        check_count(_PROGRAM, verb, options)
    except UsageError as error:
        print("Incorrect Usage.\n")
        _print_usage(verb)
        settings.fail(error)
        return 1
    try:
        return _call(verb, settings, options)
    except (KataError, OSError) as error:
        if not verb.oci:
            print(f"{_PROGRAM}: {describe_error(error)}", file=sys.stderr)
            return 1
        settings.fail(error, "exec failed: " if verb.name == "exec" else "")
        return _NO_EXEC if verb.name == "exec" else 1


def _call(verb: Verb, settings: Settings, options: Options) -> int:
    __import__(verb.module)
    status: int = sys.modules[verb.module].run(verb, settings, options)
    return status


def _find_verb(name: str) -> Verb | None:
    return next((verb for verb in VERBS if verb.name == name), None)


def _help(words: Sequence[str]) -> int:
    verb = _find_verb(words[0]) if words else None
    if words and verb is None:
        print(f"No help topic for '{words[0]}'", file=sys.stderr)
        return _NO_VERB
    if verb is None:
        _print_overview()
    else:
        _print_usage(verb)
    return 0


def _print_overview() -> None:
    width = max(len(verb.name) for verb in VERBS)
    print(f"USAGE:\n   {_PROGRAM} [global options] command [command options] [arguments...]\n")
    print("COMMANDS:")
    for verb in VERBS:
        print(f"   {verb.name:{width}}  {verb.help}")
    _print_flags("GLOBAL OPTIONS", GLOBAL_FLAGS)


def _print_usage(verb: Verb) -> None:
    options = " [command options]" if verb.flags else ""
    words = f" {verb.words}" if verb.words else ""
    print(f"NAME:\n   {_PROGRAM} {verb.name} - {verb.help}\n")
    print(f"USAGE:\n   {_PROGRAM} {verb.name}{options}{words}")
    if verb.flags:
        _print_flags("OPTIONS", verb.flags)


def _print_flags(title: str, flags: Sequence[Flag]) -> None:
    shown = [
        ", ".join(
            f"{'--' if len(name) > 1 else '-'}{name}{'' if flag.kind == 'switch' else ' value'}"
            for name in flag.names
        )
        for flag in flags
    ]
    width = max(len(text) for text in shown)
    print(f"\n{title}:")
    for text, flag in zip(shown, flags, strict=True):
        default = f' (default: "{flag.default}")' if flag.default else ""
        print(f"   {text:{width}}  {flag.help}{default}")


if __name__ == "__main__":
    sys.exit(main() or os.EX_OK)
