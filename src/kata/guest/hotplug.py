"""Processors and memory that the host has added."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.guest import files
from kata.guest.ports import Uevents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.rpc.pb.agent_pb2 import OnlineCPUMemRequest

SYSTEM = "/sys/devices/system"
# Upstream's limit for hot-plug is 3 s on real hardware; emulation is slower.
TIMEOUT_S = 20.0


def online(request: OnlineCPUMemRequest) -> None:
    """Bring added processors, and memory, into use.

    With ``wait`` the call returns when ``nb_cpus`` more processors are in use, or raises
    DEADLINE_EXCEEDED.
    """
    uevents = Uevents()
    try:
        done: list[str] = []

        def enough() -> str | None:
            done.extend(online_all("cpu"))
            return "yes" if not request.wait or len(done) >= request.nb_cpus else None

        if uevents.wait_for(enough, TIMEOUT_S) is None:
            raise KataError(
                f"bring processors online: {len(done)} of {request.nb_cpus} after {TIMEOUT_S:g} s",
                Code.DEADLINE_EXCEEDED,
            )
    finally:
        uevents.close()
    if not request.cpu_only:
        online_all("memory")


def online_all(kind: str) -> list[str]:
    """Bring every offline ``cpu`` or ``memory`` block into use, and return their names."""
    changed = []
    try:
        names = os.listdir(f"{SYSTEM}/{kind}")
    except FileNotFoundError:
        return []
    for name in names:
        if not name[len(kind) :].isdecimal():
            continue
        path = f"{SYSTEM}/{kind}/{name}/online"
        if (files.find(path) or "").strip() == "0":
            files.control(path, "1")
            changed.append(name)
    return changed


def probe_memory(addresses: list[int]) -> None:
    """Tell the kernel of memory that firmware did not announce (arm64)."""
    path = f"{SYSTEM}/memory/probe"
    if not os.path.exists(path):
        raise KataError(
            "probe memory: this kernel finds added memory by itself", Code.FAILED_PRECONDITION
        )
    for address in addresses:
        files.control(path, f"{address:#x}")
