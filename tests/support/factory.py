"""The node's factory and its templates, as tests see them."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.containerd import Containerd
from tools.steps import BUILD

FOLDER = Path("/run/vc/vm/template")
PROGRAM = "kata-factory"
LOG = Path("/run/kata/factory.log")
# A machine boots in 3 s here, and a template waits for memory that the guest gives back.
TIMEOUT_S = 90.0
# Forks of the factory that are no shims.
_WORKERS = frozenset({b"build-template", b"spare"})
_IDS = itertools.count()


def end_factory() -> None:
    """End the factory that runs: it may be another checkout's, which declines this one's shims."""
    subprocess.run([f"{BUILD}/bin/{PROGRAM}", "--end"], check=True, timeout=10)


def make_template(containerd: Containerd, *flags: str) -> str:
    """Return the folder of the template for a kind of sandboxes, made if there was none."""
    deadline = time.monotonic() + TIMEOUT_S
    # A machine that waits may be a copy of a template that is gone since.
    while not run_one(containerd, *flags) or not find_templates():
        assert time.monotonic() < deadline, LOG.read_text()
        time.sleep(1.0)
    return str(max(find_templates(), key=lambda path: (path / "template.json").stat().st_mtime_ns))


def run_one(containerd: Containerd, *flags: str) -> bool:
    """Run a container and return whether its machine was a copy."""
    name = f"copy-{os.getpid()}-{next(_IDS)}"
    containerd.run(name, "true", flags=flags)
    return was_copy(containerd, name)


def was_warm(containerd: Containerd, name: str) -> bool:
    """Return whether a sandbox's machine had run before the sandbox came."""
    return _find_start(containerd, name, "warm") == "True"


def was_copy(containerd: Containerd, name: str) -> bool:
    """Return whether a sandbox's machine was a copy of a template."""
    return _find_start(containerd, name, "copy") == "True"


def _find_start(containerd: Containerd, name: str, field: str) -> str:
    line = next(line for line in containerd.log.splitlines() if _is_start(line, name))
    found = re.search(rf"{field}=(\w+)", line)
    assert found, line
    return found[1]


def find_templates() -> list[Path]:
    """Return the folders of all templates."""
    return [path for path in FOLDER.iterdir() if not path.name.startswith(".")]


def find_factory() -> int:
    """Return the factory's pid; 0 when there is none."""
    return next(iter(find_factories()), 0)


def find_factories() -> list[int]:
    """Return the pids of all factories, of which there should not be two."""
    return [pid for pid, argv in _find_processes() if not _WORKERS.intersection(argv)]


def find_builders() -> list[int]:
    """Return the processes that make a template."""
    return [pid for pid, argv in _find_processes() if b"build-template" in argv]


def find_spares() -> list[int]:
    """Return the processes that hold a machine for a sandbox that will come, or start one."""
    return [pid for pid, argv in _find_processes() if b"spare" in argv]


def wait_for_spares(count: int, timeout_s: float = TIMEOUT_S) -> list[int]:
    """Return the spares once there are so many, and their machines can be had."""
    deadline = time.monotonic() + timeout_s
    while True:
        spares = find_spares()
        if len(spares) == count and all(_is_ready(pid) for pid in spares):
            return spares
        assert time.monotonic() < deadline, (spares, LOG.read_text()[-1000:])
        time.sleep(0.1)


def _is_ready(pid: int) -> bool:
    """Return whether a spare waits: its threads have the usual priority again then."""
    try:
        return os.getpriority(os.PRIO_PROCESS, pid) == 0
    except ProcessLookupError:
        return False


def _find_processes() -> Iterator[tuple[int, list[bytes]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                argv = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except OSError:
                continue  # it ended meanwhile
            if len(argv) > 2 and argv[2].endswith(PROGRAM.encode()):
                yield int(entry.name), argv


def _is_start(line: str, name: str) -> bool:
    return f"sandbox={name} " in line and 'msg="machine started"' in line
