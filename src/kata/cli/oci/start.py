"""kata-runtime start: run the process of a created container."""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.cli.oci.delete import delete
from kata.cli.oci.hooks import load_late_hooks, run_hooks
from kata.cli.oci.record import load_record
from kata.cli.oci.state import describe_state
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
    record = load_record(settings.root, options.words[0])
    start(settings, record)
    finish_start(settings, record)
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


def finish_start(settings: Settings, record: Record) -> None:
    """Run the poststart hooks of a container that was started.

    Where one fails the container is deleted, as runc does and runtime.md wants ("Lifecycle").
    """
    hooks = load_late_hooks(record, "poststart")
    try:
        if hooks:
            run_hooks(hooks, describe_state(record, "running"))
    except BaseException:
        delete(settings, record, force=True)
        raise
