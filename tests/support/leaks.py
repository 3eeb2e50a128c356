"""What sandboxes could leave on a host, taken before and after a test."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kata.base.mountinfo import list_mount_points

_PROGRAMS = ("qemu-system-x86_64", "virtiofsd", "containerd-shim-kata-v2")
# The factory belongs to the node, and so do the machines that it makes.
_NODES_OWN = ("kvm-probe", "factory.", "template-", "spare-")


def take_inventory() -> set[str]:
    """Return every process, mount, socket and file of sandboxes, as readable lines."""
    found = {f"process {line}" for line in find_processes()}
    found |= {f"stand-in {pid}" for pid in find_stand_ins()}
    for folder in ("/run/kata", "/run/kata-containers/shared/sandboxes", "/run/containerd/s"):
        path = Path(folder)
        if path.is_dir():
            found |= {
                f"file {entry}"
                for entry in path.iterdir()
                if not any(name in entry.name for name in _NODES_OWN)
            }
    # Podman's locks belong to the node as well.
    found |= {
        f"file {entry}"
        for entry in Path("/dev/shm").iterdir()
        if not entry.name.startswith("libpod")
    }
    found |= {f"mount {point}" for point in list_mount_points() if "kata" in point}
    return found


def find_processes(sandbox: str = "") -> list[str]:
    """Return ``pid program`` of the processes that belong to sandboxes (or to one of them)."""
    lines = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            argv = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        names = [os.path.basename(os.fsdecode(word)) for word in argv[:3]]
        program = next((name for name in names if name in _PROGRAMS), "")
        if any(name in word for word in argv for name in (b"sandbox-template-", b"spare-")):
            continue
        if program and (not sandbox or any(sandbox in os.fsdecode(word) for word in argv)):
            lines.append(f"{entry.name} {program}")
    return lines


def find_stand_ins() -> list[int]:
    """Return the pids of containers' stand-ins: Python in pid namespaces of others."""
    ours = os.readlink("/proc/self/ns/pid")
    pids = []
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or os.readlink(entry / "ns/pid") == ours:
                continue
            if os.path.basename(os.readlink(entry / "exe")).startswith("python"):
                pids.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return pids


def list_spares_own(pid: int) -> list[str]:
    """Return what belongs to a spare that no sandbox has got, by the process that holds it."""
    name = f"spare-{pid}-"
    lines = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and name.encode() in (entry / "cmdline").read_bytes():
                program = os.readlink(entry / "exe")
                lines.append(f"process {entry.name} {os.path.basename(program)}")
        except OSError:
            continue  # it ended meanwhile
    for folder in ("/run/kata", "/run/kata-containers/shared/sandboxes"):
        lines += [f"file {entry}" for entry in Path(folder).glob(f"{name}*")]
    return lines


def assert_nothing_new(before: set[str], timeout_s: float = 5.0) -> None:
    """Fail if anything is there that was not before; what is on its way out gets a moment."""
    deadline = time.monotonic() + timeout_s
    while left := take_inventory() - before:
        assert time.monotonic() < deadline, f"left behind: {sorted(left)}"
        time.sleep(0.1)
