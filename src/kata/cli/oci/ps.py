"""kata-runtime ps: the processes of a container.

They are a guest's, so the host's ps cannot see them: that of the container's image lists them.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json
from kata.cli.oci.execute import run_in
from kata.cli.oci.record import load_record
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_ALL = ("-ef",)
_PIDS = ("-o", "pid")


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print them as ps does, or their numbers as JSON."""
    form = options.text("format")
    if form not in ("table", "json"):
        raise KataError("invalid format option", Code.INVALID_ARGUMENT)
    record = load_record(settings.root, options.words[0])
    words = _PIDS if form == "json" else options.words[1:] or _ALL
    process = {**load_spec(record.bundle)["process"], "args": ["ps", *words], "terminal": False}
    if form == "table":
        return run_in(settings, record, process)
    status, output = _run_aside(settings, record, process)
    print(render_json([int(word) for word in output.split() if word.isdecimal()]))
    return status


def _run_aside(settings: Settings, record: Record, process: dict[str, Any]) -> tuple[int, str]:
    """Run a process; returns its status and what it printed, which is less than a pipe holds."""
    printed = os.dup(1)
    reading, writing = os.pipe()
    os.dup2(writing, 1)
    os.close(writing)
    try:
        status = run_in(settings, record, process)
    finally:
        os.dup2(printed, 1)
        os.close(printed)
    with open(reading, encoding="utf-8", errors="replace") as file:
        return status, file.read()
