"""kata-runtime delete: give back what a container holds."""

from __future__ import annotations

import signal

from kata.base.cgroups import remove_folders
from kata.base.errors import Code, KataError, describe_error
from kata.base.folders import remove_folder
from kata.base.processes import end_process
from kata.cli.oci.hooks import load_late_hooks, run_last_hooks
from kata.cli.oci.record import folder_of, load_record
from kata.cli.oci.task import Task, clean_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Delete the container."""
    force = options.has("force")
    try:
        record = load_record(settings.root, options.words[0])
    except KataError as error:
        if force and error.code == Code.NOT_FOUND:
            # A create that was killed at once has left no more than this.
            remove_folder(folder_of(settings.root, options.words[0]))
            return 0
        raise
    delete(settings, record, force=force)
    return 0


def delete(settings: Settings, record: Record, *, force: bool) -> None:
    """Delete a container that has stopped or was never started, with ``force`` any.

    Raises FAILED_PRECONDITION, in runc's words, for one that runs.
    """
    status = record.status
    # One whose creation was killed before it had a stand-in is "creating" for ever.
    lives = status in ("running", "paused") or (status == "creating" and record.pid > 0)
    if lives and not force:
        raise KataError(
            f"cannot delete container {record.id} that is not stopped: {status}",
            Code.FAILED_PRECONDITION,
        )
    hooks = load_late_hooks(record, "poststop")
    _delete_task(settings, record, kills=status in ("running", "paused"))
    if record.pid:
        end_process(record.pid, record.start_time)
    remove_folders(record.cgroups)
    remove_folder(record.folder)
    run_last_hooks(settings, record, hooks)


def _delete_task(settings: Settings, record: Record, *, kills: bool) -> None:
    try:
        task = Task(settings.root, record.sandbox, record.id)
    except KataError:
        # Its shim was killed, and took the machine along.
        if record.sandbox == record.id:
            clean_up(settings.root, record.id, record.folder)
        return
    with task:
        try:
            if kills:
                _kill(task)
            task.delete()
        except KataError as error:
            if error.code not in (Code.NOT_FOUND, Code.UNAVAILABLE):
                raise
            settings.warn(f"delete {record.id}: {describe_error(error)}")
        if record.sandbox == record.id:
            task.shut_down()


def _kill(task: Task) -> None:
    try:
        task.kill(signal.SIGKILL)
    except KataError as error:
        if error.code != Code.NOT_FOUND:  # it has just ended
            raise
    task.wait()
