"""kata-runtime exec SANDBOX [-- COMMAND]: a program in the guest itself, or a shell."""

from __future__ import annotations

import json
import os
import sys

from kata.base.errors import Code, KataError, describe_error
from kata.base.statefolder import find_sandbox_folder
from kata.cli.oci.streams import Console, start_process
from kata.cli.oci.task import Task
from kata.cli.oci.wait import wait_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.settings import Settings
    from kata.cli.table import Options

_SHELL = "/bin/sh"
# Flags that mean something in a container alone.
_CONTAINERS = (
    "additional-gids",
    "apparmor",
    "cap",
    "cgroup",
    "console-socket",
    "cwd",
    "detach",
    "ignore-paused",
    "no-new-privs",
    "pid-file",
    "preserve-fds",
    "process",
    "process-label",
    "user",
)


def is_for_guest(options: Options) -> bool:
    """Return whether the guest is meant: no command for a container, or ``--`` before it."""
    _, *command = options.words
    return command[:1] == ["--"] or not (command or options.has("process"))


def run_in_guest(settings: Settings, options: Options) -> int:
    """Run it; returns its exit status.

    Raises NOT_FOUND without such a sandbox, FAILED_PRECONDITION where it does not allow that.
    """
    try:
        return _run(options)
    except KataError as error:
        # A command for a container may have been forgotten: then this is what engines know.
        if options.words[1:] or not os.path.exists(f"{settings.root}/{options.words[0]}"):
            raise
        raise KataError(
            "process args cannot be empty", Code.INVALID_ARGUMENT, describe_error(error)
        ) from error


def _run(options: Options) -> int:
    for flag in _CONTAINERS:
        if options.has(flag):
            raise KataError(f"exec in a guest: it has no --{flag}", Code.INVALID_ARGUMENT)
    name, *words = options.words
    folder = find_sandbox_folder(name)
    terminal = options.has("tty") or (sys.stdin.isatty() and sys.stdout.isatty())
    process = {
        "args": words[1:] or [_SHELL],
        "cwd": "/",
        "env": [f"TERM={os.environ.get('TERM', 'linux')}", *options.texts("env")],
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
    }
    console = Console() if terminal else None
    path = _find_socket(folder)
    stand_in = start_process(
        lambda: Task("", os.path.basename(folder), "", path), process, folder, console
    )
    return wait_for(stand_in, console)


def _find_socket(folder: str) -> str:
    """Return where the sandbox's shim listens."""
    path = f"{folder}/record.json"
    try:
        with open(path, encoding="utf-8") as file:
            return str(json.load(file)["owner"])
    except (OSError, ValueError, KeyError) as error:
        raise KataError(f"read {path}: {error}", Code.UNAVAILABLE) from error
