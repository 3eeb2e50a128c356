"""kata-runtime start: run the process of a created container."""

from __future__ import annotations

from kata.base.errors import Code, KataError, describe_error
from kata.cli.oci.bundle import host_hooks
from kata.cli.oci.hooks import run_hooks
from kata.cli.oci.record import load_record
from kata.cli.oci.state import describe_state
from kata.cli.oci.task import Task
from kata.oci.bundle import load_spec

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
    task = Task(settings.root, record.sandbox, record.id)
    # Before: a process that ends at once must not be found as one that never started.
    record.mark_started()
    try:
        task.start()
    finally:
        task.close()
    _run_poststart(settings, record)


def _run_poststart(settings: Settings, record: Record) -> None:
    """Run its hooks; one that fails is told and changes nothing (runtime.md, "Lifecycle")."""
    try:
        hooks = host_hooks(load_spec(record.bundle), ("poststart",))
        run_hooks(hooks, describe_state(record, "running"))
    except KataError as error:
        settings.warn(f"poststart of {record.id}: {describe_error(error)}")
