"""Run an engine's hooks, in the runtime's namespaces, with the container's state as their input."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError, describe_error
from kata.base.jsontext import render_json
from kata.cli.oci.state import describe_state

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings

# Those that run after the creation, which are kept as they were then.
LATE = ("poststart", "poststop")
_NAME = "hooks.json"
# Of what a hook says, so much goes into the error.
_SHOWN = 2000


def run_hooks(
    hooks: Sequence[dict[str, Any]], state: dict[str, Any], folder: str | None = None
) -> None:
    """Run hooks one after another, in ``folder`` or here.

    Raises KataError for the first that fails.
    """
    document = render_json(state).encode()
    for index, hook in enumerate(hooks):
        _run(index, hook, document, folder)


def save_late_hooks(record: Record, hooks: dict[str, list[dict[str, Any]]]) -> None:
    """Keep a container's hooks by kind: what becomes of its bundle changes nothing."""
    if any(hooks.values()):
        with open(f"{record.folder}/{_NAME}", "w") as file:
            file.write(render_json(hooks))


def load_late_hooks(record: Record, kind: str) -> list[dict[str, Any]]:
    """Return a container's hooks of a kind that comes after its creation."""
    try:
        with open(f"{record.folder}/{_NAME}", "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return []
    import json

    hooks: list[dict[str, Any]] = json.loads(text).get(kind) or []
    return hooks


def run_last_hooks(settings: Settings, record: Record, hooks: Sequence[dict[str, Any]]) -> None:
    """Run hooks of what is gone; each that fails is told, and the others run (runtime.md)."""
    document = render_json(describe_state(record, "stopped")).encode()
    for index, hook in enumerate(hooks):
        try:
            _run(index, hook, document, None)
        except KataError as error:
            settings.warn(f"poststop of {record.id}: {describe_error(error)}")


def _run(index: int, hook: dict[str, Any], document: bytes, folder: str | None) -> None:
    import subprocess  # which takes longer than the verbs that mostly have no hooks to run

    path = str(hook["path"])
    argv = [str(word) for word in hook.get("args") or [path]]
    environ = None  # the caller's, as with runc, unless there is a list, be it empty
    if hook.get("env") is not None:
        environ = dict(str(entry).partition("=")[::2] for entry in hook["env"])
    try:
        done = subprocess.run(
            argv,
            executable=path,
            env=environ,
            cwd=folder,
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
