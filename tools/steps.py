"""What all set-up steps share: say what happens, run a command, do a step only when needed.

Runs on Debian's Python alone, before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.path.join(CHECKOUT, "build")
PYTHON = "/usr/bin/python3"


class StepError(Exception):
    """A set-up step failed; the message says which and why."""


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"==> {text}", flush=True)


def run(command: list[str], *, env: dict[str, str] | None = None, cwd: str = CHECKOUT) -> None:
    """Run a command quietly; show its output only when it fails."""
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.stdout.write(done.stdout.decode(errors="replace"))
        raise StepError(
            f"{' '.join(command)}: exit code {done.returncode} "
            f"after {time.monotonic() - start:.0f} s"
        )


def read_output(command: list[str]) -> str:
    """Return what a command prints.  Raises StepError when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StepError(f"{' '.join(command)}: exit code {done.returncode}")
    return done.stdout


def content_key(paths: Iterable[str], *words: str) -> str:
    """Return a hash over files (folders with all below), their names, and some words."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in sorted(_expand(paths)):
        digest.update(os.path.relpath(path, CHECKOUT).encode() + b"\0")
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def is_done(stamp: str, key: str) -> bool:
    """Tell whether the step with this stamp file was finished for the same inputs."""
    try:
        with open(stamp, encoding="ascii") as file:
            return file.read() == key
    except OSError:
        return False


def mark_done(stamp: str, key: str) -> None:
    """Remember that the step is finished."""
    with open(stamp, "w", encoding="ascii") as file:
        file.write(key)


def write_file(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file in one step, unless it is the same already."""
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text and os.stat(path).st_mode & 0o777 == mode:
                return
    except OSError:
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.new"
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(temporary, path)


def _expand(paths: Iterable[str]) -> Iterable[str]:
    for path in paths:
        if not os.path.isdir(path):
            yield path
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if name != "__pycache__"]
            yield from (os.path.join(folder, name) for name in names if not name.endswith(".pyc"))
