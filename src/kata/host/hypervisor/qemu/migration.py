"""Save a machine's state and start another from it: QEMU's migration without the memory.

The memory is a shared file that outlives the machine, so only the state of processors and devices
goes through the stream: some hundred KiB, which fit into a pipe (docs/devel/migration of QEMU,
capability ``x-ignore-shared``).
"""

from __future__ import annotations

import fcntl
import os
import select
import time

from kata.base.errors import Code, KataError
from kata.host.hypervisor.qemu.qmp import Message, Qmp

# Measured under emulation: 20 ms to save, 40 to restore.
_TIMEOUT_S = 30.0
# The most that a process may give a pipe without being privileged (fs.pipe-max-size).
_PIPE_BYTES = 1 << 20
_FD_NAME = "state"


def save(qmp: Qmp) -> bytes:
    """Stop the machine and return its state.  Raises KataError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        _prepare(qmp)
        try:
            qmp.execute("getfd", {"fdname": _FD_NAME}, fd=writer)
        finally:
            os.close(writer)
        # It still runs when this begins, so what is restored runs at once as well.
        qmp.execute("migrate", {"uri": f"fd:{_FD_NAME}"})
        state = _read_all(reader, time.monotonic() + _TIMEOUT_S)
    finally:
        os.close(reader)
    _wait(qmp, "save machine")
    return state


def restore(qmp: Qmp, state: bytes) -> None:
    """Give a machine that waits for it a state; it runs when this returns.  Raises KataError."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, max(_PIPE_BYTES, len(state)))
            if size < len(state) or os.write(writer, state) != len(state):
                raise KataError(f"restore machine: a state of {len(state)} bytes is too long")
        finally:
            os.close(writer)
        _prepare(qmp)
        qmp.execute("getfd", {"fdname": _FD_NAME}, fd=reader)
    finally:
        os.close(reader)
    qmp.execute("migrate-incoming", {"uri": f"fd:{_FD_NAME}"})
    _wait(qmp, "restore machine")


def _prepare(qmp: Qmp) -> None:
    wanted = [{"capability": name, "state": True} for name in ("events", "x-ignore-shared")]
    qmp.execute("migrate-set-capabilities", {"capabilities": wanted})


def _wait(qmp: Qmp, action: str) -> None:
    status = qmp.wait_event("MIGRATION", _is_last, _TIMEOUT_S)["status"]
    if status != "completed":
        info = qmp.execute("query-migrate")
        raise KataError(f"{action}: {info.get('error-desc', status)}", Code.INTERNAL)


def _is_last(data: Message) -> bool:
    return data.get("status") in ("completed", "failed", "cancelled")


def _read_all(fd: int, deadline: float) -> bytes:
    pieces: list[bytes] = []
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while True:
        left_ms = (deadline - time.monotonic()) * 1000
        if not poller.poll(max(0.0, left_ms)):
            raise KataError("save machine: no end of its state", Code.DEADLINE_EXCEEDED)
        piece = os.read(fd, _PIPE_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
