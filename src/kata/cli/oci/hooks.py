"""Run an engine's hooks, in the runtime's namespaces, with the container's state as their input."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError, describe_error
from kata.base.jsontext import render_json
from kata.cli.oci.bundle import host_hooks
from kata.cli.oci.state import describe_state
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings

# Of what a hook says, so much goes into the error.
_SHOWN = 2000


def run_hooks(hooks: Sequence[dict[str, Any]], state: dict[str, Any]) -> None:
    """Run hooks one after another.  Raises KataError for the first that fails."""
    document = render_json(state).encode()
    for index, hook in enumerate(hooks):
        _run(index, hook, document)


def run_late_hooks(settings: Settings, record: Record, kind: str, status: str) -> None:
    """Run a container's hooks of a kind that comes too late to stop anything.

    One that fails is told and changes nothing (runtime.md, "Lifecycle").
    """
    try:
        run_hooks(host_hooks(load_spec(record.bundle), (kind,)), describe_state(record, status))
    except KataError as error:
        # By then the bundle may be gone, which is no fault.
        if error.code != Code.NOT_FOUND or status != "stopped":
            settings.warn(f"{kind} of {record.id}: {describe_error(error)}")


def _run(index: int, hook: dict[str, Any], document: bytes) -> None:
    import subprocess  # which takes longer than the verbs that mostly have no hooks to run

    path = str(hook["path"])
    argv = [str(word) for word in hook.get("args") or [path]]
    environ = dict(str(entry).partition("=")[::2] for entry in hook.get("env") or [])
    try:
        done = subprocess.run(
            argv,
            executable=path,
            env=environ,
            input=document,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=hook.get("timeout") or None,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise KataError(
            f"error running hook #{index}: {path}: no end after {hook['timeout']} s",
            Code.DEADLINE_EXCEEDED,
        ) from error
    except OSError as error:
        raise KataError(
            f"error running hook #{index}: {path}: {os.strerror(error.errno or 0)}", Code.INTERNAL
        ) from error
    if done.returncode:
        said = done.stderr[-_SHOWN:].decode("utf-8", "replace").strip()
        raise KataError(
            f"error running hook #{index}: {path}: exit status {done.returncode}, stderr: {said}",
            Code.INTERNAL,
        )
