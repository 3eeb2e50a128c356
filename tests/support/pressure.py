"""Real memory pressure on the host, made in a cgroup that is too small for what runs in it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kata.base.mountinfo import list_mounts

_LIMIT_BYTES = 24 << 20
_FILE_MB = 200
_NAME = "kata-test-pressure"


@contextmanager
def memory_pressure(folder: Path) -> Iterator[None]:
    """Let two processes read a file again and again that their cgroup has no room to cache."""
    group, limit = _make_group()
    file = folder / "read"
    script = (
        f"echo $$ > {group}/cgroup.procs; dd if=/dev/zero of={file} bs=1M count={_FILE_MB};"
        f" while :; do cat {file} & cat {file}; wait; done"
    )
    (group / limit).write_text(str(_LIMIT_BYTES))
    readers = subprocess.Popen(
        ["sh", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        readers.kill()
        readers.wait()
        deadline = time.monotonic() + 10
        while pids := (group / "cgroup.procs").read_text().split():
            assert time.monotonic() < deadline
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)
        group.rmdir()
        file.unlink()


def _make_group() -> tuple[Path, str]:
    """Return a new cgroup of the memory controller and the name of its limit."""
    for mount in list_mounts():
        if mount.fstype == "cgroup" and Path(mount.point).name == "memory":
            group, limit = Path(mount.point, _NAME), "memory.limit_in_bytes"
            break
    else:
        group, limit = Path("/sys/fs/cgroup", _NAME), "memory.max"
    group.mkdir()
    return group, limit
