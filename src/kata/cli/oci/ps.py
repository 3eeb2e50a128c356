"""kata-runtime ps: the processes of a container.

They are a guest's, so the host's ps cannot see them: that of the container's image lists them for
people.  Engines take the JSON form for pids of the host, of which there is the stand-in's.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json
from kata.cli.oci.execute import run_in
from kata.cli.oci.record import load_record
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_ALL = ("-ef",)


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print them as ps does, or the pid that stands for them as JSON."""
    form = options.text("format")
    if form not in ("table", "json"):
        raise KataError("invalid format option", Code.INVALID_ARGUMENT)
    record = load_record(settings.root, options.words[0])
    if form == "json":
        print(render_json([record.pid] if record.status != "stopped" else []))
        return 0
    words = options.words[1:] or _ALL
    process = {**load_spec(record.bundle)["process"], "args": ["ps", *words], "terminal": False}
    return run_in(settings, record, process)
