"""kata-runtime logs ID: what the parts of a sandbox have said, in the order of time."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass

from kata.base.errors import KataError
from kata.base.statefolder import ROOT, find_sandbox_folder
from kata.cli.management import make_printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_FACTORY = "factory.log"
# Sources in a sandbox's folder.  The console has no times: it comes where the agent begins.
_OF_SANDBOX = (("console", "console.log"), ("agent", "agent.log"))
_SHIM = "log"
_TIME = re.compile(r'^time="([^"]+)"')


@dataclass(frozen=True, slots=True)
class Line:
    """A line, with the time that it is sorted by."""

    time: str
    source: str
    text: str


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print them, each with its source.  Raises NOT_FOUND without such a sandbox."""
    to_terminal = sys.stdout.isatty()
    for line in collect(options.words[0], ROOT, settings.root):
        # Part of it is the guest's word.
        print(f"{line.source:8} {make_printable(line.text) if to_terminal else line.text}")
    return 0


def collect(sandbox_id: str, root: str, oci_root: str) -> list[Line]:
    """Return all lines of a sandbox.

    A shim's own log is containerd's, unless this program started it: then it is below
    ``oci_root``, also when the machine has ended.  Raises NOT_FOUND without either.
    """
    files: list[tuple[str, str]] = []
    try:
        folder = find_sandbox_folder(sandbox_id, root)
        name = os.path.basename(folder)
        files = [(source, f"{folder}/{file}") for source, file in _OF_SANDBOX]
    except KataError:
        name = sandbox_id
        if not os.path.exists(f"{oci_root}/{name}/{_SHIM}"):
            raise
    files.append(("shim", f"{oci_root}/{name}/{_SHIM}"))
    lines = [line for source, path in files for line in read_lines(source, path)]
    lines += [
        line
        for line in read_lines("factory", f"{root}/{_FACTORY}")
        if re.search(rf"\b{re.escape(name)}\b", line.text)
    ]
    return sorted(lines, key=lambda line: line.time)


def read_lines(source: str, path: str) -> Iterator[Line]:
    """Yield a file's lines; one without a time has that of the line before."""
    time = ""
    try:
        with open(path, errors="backslashreplace") as file:
            for text in file:
                found = _TIME.match(text)
                time = found[1] if found else time
                yield Line(time, source, text.rstrip("\r\n"))
    except FileNotFoundError:
        return
