"""kata-runtime kill: send a signal to a container's process."""

from __future__ import annotations

import signal

from kata.base.errors import Code, KataError
from kata.cli.oci.record import load_record
from kata.cli.oci.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_MAX = 64


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Send the signal.  Raises in runc's words for one that does not exist, or no process."""
    name = options.words[1] if len(options.words) > 1 else "TERM"
    record = load_record(settings.root, options.words[0])
    signum = parse_signal(name)
    if record.status in ("stopped", "creating"):
        # Engines end all processes of what has stopped, to be sure.
        if options.has("all"):
            return 0
        raise KataError("container not running", Code.FAILED_PRECONDITION)
    if signum:
        try:
            with Task(settings.root, record.sandbox, record.id) as task:
                task.kill(signum, everything=options.has("all"))
        except KataError as error:
            if error.code == Code.NOT_FOUND:
                raise KataError("container not running", Code.FAILED_PRECONDITION) from error
            raise
    return 0


def parse_signal(text: str) -> int:
    """Return a signal's number by its name, with or without SIG, or its number."""
    if text.isdecimal() and int(text) <= _MAX:
        return int(text)
    name = text.upper()
    found = signal.Signals.__members__.get(name if name.startswith("SIG") else f"SIG{name}")
    if found is None:
        raise KataError(f"unknown signal {text!r}", Code.INVALID_ARGUMENT)
    return int(found)
