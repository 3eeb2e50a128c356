"""kata-runtime pause and resume: suspend a container's processes, and let them go on."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.cli.oci.record import load_record
from kata.cli.oci.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Pause or resume.  Raises FAILED_PRECONDITION, in runc's words, in another state."""
    record = load_record(settings.root, options.words[0])
    status = record.status
    pauses = verb.name == "pause"
    if pauses and status not in ("running", "created"):
        raise KataError(f"container not running or created: {status}", Code.FAILED_PRECONDITION)
    if not pauses and status != "paused":
        raise KataError("container not paused", Code.FAILED_PRECONDITION)
    with Task(settings.root, record.sandbox, record.id) as task:
        if pauses:
            # Before: one that was frozen by who was killed then must be found as one.
            record.mark_paused()
            try:
                task.pause()
            except KataError:
                record.mark_resumed()
                raise
        else:
            task.resume()
            record.mark_resumed()
    return 0
