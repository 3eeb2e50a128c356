"""Run an engine's hooks, in the runtime's namespaces, with the container's state as their input."""

from __future__ import annotations

import os
import subprocess

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Of what a hook says, so much goes into the error.
_SHOWN = 2000


def run_hooks(hooks: Sequence[dict[str, Any]], state: dict[str, Any]) -> None:
    """Run hooks one after another.  Raises KataError for the first that fails."""
    document = render_json(state).encode()
    for index, hook in enumerate(hooks):
        _run(index, hook, document)


def _run(index: int, hook: dict[str, Any], document: bytes) -> None:
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
