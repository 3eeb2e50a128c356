"""kata-runtime start: run the process of a created container."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.cli.oci.hooks import run_late_hooks
from kata.cli.oci.record import load_record
from kata.cli.oci.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_REFUSED = {
    "running": "cannot start an already running container",
    "paused": "cannot start an already running container",
    "stopped": "cannot start a container that has stopped",
}


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Start the container."""
    start(settings, load_record(settings.root, options.words[0]))
    return 0


def start(settings: Settings, record: Record) -> None:
    """Start a container.  Raises FAILED_PRECONDITION, in runc's words, unless it is created."""
    status = record.status
    if status != "created":
        reason = _REFUSED.get(status, f"cannot start a container in the {status} state")
        raise KataError(reason, Code.FAILED_PRECONDITION)
    with Task(settings.root, record.sandbox, record.id) as task:
        # Before: a process that ends at once must not be found as one that never started.
        record.mark_started()
        try:
            task.start()
        except KataError:
            record.mark_unstarted()
            raise
    run_late_hooks(settings, record, "poststart", "running")
