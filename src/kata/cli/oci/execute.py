"""kata-runtime exec: another process in a container that runs."""

from __future__ import annotations

import json

from kata.base.errors import Code, KataError
from kata.cli.guest import is_for_guest, run_in_guest
from kata.cli.oci.create import check_descriptors, check_pid_file, write_pid_file
from kata.cli.oci.record import load_record
from kata.cli.oci.streams import Console, open_console_socket, start_process
from kata.cli.oci.task import Task
from kata.cli.oci.wait import wait_for
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.oci.streams import Leash
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_CAPABILITY_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Run it; returns its exit status, or 0 at once where it is detached."""
    if is_for_guest(options):
        return run_in_guest(settings, options)
    record = load_record(settings.root, options.words[0])
    _check_state(record, options)
    process = _plan_process(record, options)
    check_descriptors(options)
    check_pid_file(options.text("pid-file"))
    console_socket = _open_console_socket(options, bool(process.get("terminal")))
    console = Console() if process.get("terminal") else None
    stand_in = _start(settings, record, process, console)
    if options.text("pid-file"):
        write_pid_file(options.text("pid-file"), stand_in.pid)
    if console is not None and console_socket is not None:
        console.send_master(console_socket)
    if options.has("detach"):
        return 0
    return wait_for(stand_in, None if console_socket else console)


def run_in(settings: Settings, record: Record, process: dict[str, Any]) -> int:
    """Run a process without a terminal in the foreground; returns its exit status."""
    return wait_for(_start(settings, record, process, None), None)


def _check_state(record: Record, options: Options) -> None:
    status = record.status
    if status in ("stopped", "creating"):
        raise KataError("cannot exec in a stopped container", Code.FAILED_PRECONDITION)
    if status == "created":
        raise KataError(
            "cannot exec in a container whose process has not been started",
            Code.FAILED_PRECONDITION,
        )
    if status == "paused":
        raise KataError(
            "cannot exec in a paused container"
            + ("" if options.has("ignore-paused") else " (use --ignore-paused to override)"),
            Code.FAILED_PRECONDITION,
        )


def _plan_process(record: Record, options: Options) -> dict[str, Any]:
    """Return the specification's object, from a file or from the container's own and flags."""
    path = options.text("process")
    if path:
        return _load_process(path)
    words = options.words[1:]
    if not words:
        raise KataError("process args cannot be empty", Code.INVALID_ARGUMENT)
    process = dict(load_spec(record.bundle)["process"])
    process["args"] = words
    process["terminal"] = options.has("tty")
    process["env"] = [*(process.get("env") or []), *options.texts("env")]
    if options.text("cwd"):
        process["cwd"] = options.text("cwd")
    if options.has("no-new-privs"):
        process["noNewPrivileges"] = True
    _set_user(process, options)
    if options.texts("cap"):
        own = process.get("capabilities") or {}
        process["capabilities"] = {
            name: sorted({*(own.get(name) or []), *options.texts("cap")})
            for name in _CAPABILITY_SETS
        }
    return process


def _set_user(process: dict[str, Any], options: Options) -> None:
    user = dict(process.get("user") or {})
    text = options.text("user")
    try:
        if text:
            uid, colon, gid = text.partition(":")
            user["uid"] = int(uid)
            if colon:
                user["gid"] = int(gid)
        if options.texts("additional-gids"):
            user["additionalGids"] = [
                *(user.get("additionalGids") or []),
                *(int(gid) for gid in options.texts("additional-gids")),
            ]
    except ValueError as error:
        raise KataError(
            f"parsing {text or options.texts('additional-gids')} as a number failed: {error}",
            Code.INVALID_ARGUMENT,
        ) from error
    process["user"] = user


def _load_process(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            process = json.load(file)
    except OSError as error:
        raise KataError(f"open {path}: {error.strerror}", Code.NOT_FOUND) from error
    except ValueError as error:
        raise KataError(f"read {path}: invalid JSON: {error}", Code.INVALID_ARGUMENT) from error
    if not isinstance(process, dict) or not process.get("args"):
        raise KataError("process args cannot be empty", Code.INVALID_ARGUMENT)
    return process


def _open_console_socket(options: Options, terminal: bool) -> Any:
    path = options.text("console-socket")
    detached = options.has("detach")
    if terminal and detached and not path:
        raise KataError(
            "cannot allocate tty if runc will detach without setting console socket",
            Code.INVALID_ARGUMENT,
        )
    if path and not terminal:
        raise KataError(
            "cannot use console socket if runc will not detach or allocate tty",
            Code.INVALID_ARGUMENT,
        )
    return open_console_socket(path) if path else None


def _start(
    settings: Settings, record: Record, process: dict[str, Any], console: Console | None
) -> Leash:
    def connect() -> Task:
        return Task(settings.root, record.sandbox, record.id)

    return start_process(connect, process, record.folder, console, record.pid)
