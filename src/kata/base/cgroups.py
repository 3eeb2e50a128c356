"""Folders of the host's cgroups: found, made, entered, removed.

Of version 1 there is a hierarchy for each controller, of version 2 a single one.
"""

from __future__ import annotations

import os
import time

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.base.mountinfo import Mount

# Processes that have just been reaped hold their cgroup for a moment.
_REMOVE_S = 2.0
_REMOVE_STEP_S = 0.01
# A new folder of cpuset (version 1) takes no process before these are set.
_CPUSET = ("cpuset.cpus", "cpuset.mems")


def find_hierarchies(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return where the host's hierarchies are mounted; the one of version 2 only if it is alone."""
    first = [m.point for m in mounts if m.fstype == "cgroup" and m.root == "/"]
    # A named hierarchy has no controller, and belongs to who named it (systemd).
    first = [point for point in first if not os.path.basename(point).startswith("systemd")]
    return tuple(first) or tuple(m.point for m in mounts if m.fstype == "cgroup2")[:1]


def find_all_hierarchies(mounts: Sequence[Mount]) -> tuple[str, ...]:
    """Return where all of the host's hierarchies are mounted, whoever they belong to."""
    return tuple(m.point for m in mounts if m.fstype in ("cgroup", "cgroup2") and m.root == "/")


def expand_path(path: str) -> str:
    """Return a cgroup's path below the root of a hierarchy; systemd's slice:prefix:name too."""
    if path.count(":") != 2:
        return "/" + path.strip("/")
    slice_, prefix, name = path.split(":")
    parts = slice_.removesuffix(".slice").split("-")
    folders = ["-".join(parts[: n + 1]) + ".slice" for n in range(len(parts))]
    return "/" + "/".join([*folders, f"{prefix}-{name}.scope"])


def make_folders(folders: Sequence[str]) -> list[str]:
    """Make folders, and return those that were not there.  Raises KataError; then none is."""
    made: list[str] = []
    try:
        for folder in folders:
            if not os.path.isdir(folder):
                _make(folder)
                made.append(folder)
        return made
    except OSError as error:
        remove_folders(made)
        raise KataError(
            f"make cgroup {error.filename}: {error.strerror}", Code.FAILED_PRECONDITION
        ) from error


def enter_folders(folders: Sequence[str], pid: int, what: str) -> None:
    """Move a process.  Raises KataError that names ``what``; one that has ended is no error."""
    try:
        for folder in folders:
            _write(f"{folder}/cgroup.procs", str(pid))
    except ProcessLookupError:
        pass  # whoever waits for it will say why
    except OSError as error:
        raise KataError(
            f"move {what} into cgroup {error.filename}: {error.strerror}",
            Code.FAILED_PRECONDITION,
        ) from error


def remove_folders(folders: Sequence[str]) -> None:
    """Remove the folders once their processes have ended.  Raises KataError after the last."""
    failures = []
    deadline = time.monotonic() + _REMOVE_S
    for folder in folders:
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError as error:
                if time.monotonic() < deadline:
                    time.sleep(_REMOVE_STEP_S)
                    continue
                failures.append(f"{folder}: {error.strerror}")
            break
    if failures:
        raise KataError(f"remove cgroups: {'; '.join(failures)}", Code.INTERNAL)


def _make(folder: str) -> None:
    """Make a folder and those above it, which give it their processors and controllers."""
    parent = os.path.dirname(folder)
    if not os.path.isdir(parent):
        _make(parent)
    controllers = read_file(f"{parent}/cgroup.controllers").split()
    if controllers:
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
    try:
        os.mkdir(folder)
    except FileExistsError:
        pass  # somebody else makes one beside it
    for name in _CPUSET:
        if os.path.exists(f"{parent}/{name}") and not read_file(f"{folder}/{name}"):
            inherited = read_file(f"{parent}/{name}")
            if inherited:
                _write(f"{folder}/{name}", inherited)


def read_file(path: str) -> str:
    """Return the content of a file of a cgroup, nothing where there is none."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
