"""The namespaces that a stand-in is in, and its start in them.

Engines reach a container through the namespaces of its pid.  A child of this program makes or joins
them and starts the stand-in there, as this program's child and not its own.
"""

from __future__ import annotations

import os
import socket

from kata.base import cgroups
from kata.base.errors import Code, KataError
from kata.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from kata.cli.oci.child import Tell

# linux/sched.h
_KINDS = {
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
_FILES = {"network": "net"}
_CLONE_NEWNS = 0x00020000
# Where a stand-in's program is.
_PROGRAMS = "/usr"
# Above all numbers that a program's descriptors get.
_FIRST_FREE_FD = 100


@dataclass(frozen=True)
class Namespaces:
    """Which to make (CLONE_NEW*), and which to join: the path of each, and its kind."""

    new: int = 0
    joined: tuple[tuple[str, int], ...] = ()
    # For a new uts namespace.
    host_name: str = ""
    # Folders of cgroups to move into before.
    cgroups: tuple[str, ...] = ()
    # Of a stand-in whose mounts, and so root, it gets a copy of.
    mounts_of: int = 0


@dataclass(frozen=True)
class Program:
    """A stand-in's command line, and its descriptors from 0 on.

    After them it gets one of a pipe, to which it writes when nothing more of it is to be loaded.
    """

    argv: tuple[str, ...]
    fds: tuple[int, ...]
    # A folder that is mounted over in its mount namespace.
    folder: str


def plan_namespaces(
    wanted: Mapping[str, str], network: str | None, host_name: str, folders: Sequence[str]
) -> Namespaces:
    """Return those of a container's stand-in, by the specification's: kind and path.

    ``network`` is the path of its network namespace, empty for a new one, None for this program's.
    """
    paths = {kind: wanted.get(kind, "") for kind in _KINDS if kind != "network"}
    if network is not None:
        paths["network"] = network
    new = _CLONE_NEWNS
    for kind, path in paths.items():
        new |= 0 if path else _KINDS[kind]
    joined = tuple((path, _KINDS[kind]) for kind, path in paths.items() if path)
    return Namespaces(new, joined, "" if paths["uts"] else host_name, tuple(folders))


def plan_beside(pid: int) -> Namespaces:
    """Return those of an exec's stand-in, beside that of its container."""
    joined = ((f"/proc/{pid}/ns/{_FILES.get(kind, kind)}", flag) for kind, flag in _KINDS.items())
    return Namespaces(_CLONE_NEWNS, tuple(joined), mounts_of=pid)


def start_in(namespaces: Namespaces, program: Program, tell: Tell) -> None:
    """Start a stand-in, in a child of this program: tells its pid, then that it has loaded.

    Changes this process's namespaces.  Raises OSError or KataError.
    """
    from kata.base import syscalls

    others = os.open(f"/proc/{namespaces.mounts_of or 'self'}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _enter(namespaces)
    wait, ready = os.pipe()
    pid = syscalls.fork_sibling()
    if pid == 0:
        _become(program, ready)
    tell(pid)
    os.close(ready)
    if not os.read(wait, 1):
        raise KataError(f"{program.argv[0]} has ended", Code.INTERNAL)
    if namespaces.mounts_of:
        from kata.cli.oci.roottree import clone_root, enter_root

        enter_root(clone_root(others), program.folder)
    tell(True)


def _enter(namespaces: Namespaces) -> None:
    from kata.base import syscalls

    opened = [(os.open(path, os.O_RDONLY | os.O_CLOEXEC), kind) for path, kind in namespaces.joined]
    # Before: it is the root of a new cgroup namespace.
    cgroups.enter_folders(namespaces.cgroups, os.getpid(), "stand-in")
    for fd, kind in opened:
        syscalls.setns(fd, kind)
        os.close(fd)
    syscalls.unshare(namespaces.new)
    if namespaces.host_name:
        socket.sethostname(namespaces.host_name)
    if namespaces.new & _CLONE_NEWNS:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
        # Who enters can open the interpreter by /proc/PID/exe, and must not change the host's
        # (as in CVE-2019-5736).
        tree = syscalls.clone_mount(_PROGRAMS, syscalls.MS_PRIVATE, recursive=True)
        syscalls.protect_mount(tree, recursive=True)
        syscalls.move_mount(tree, _PROGRAMS)
        os.close(tree)


def _become(program: Program, ready: int) -> NoReturn:
    import fcntl

    try:
        fds = (*program.fds, ready)
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE_FD) for fd in fds]
        for number, fd in enumerate(moved):
            os.dup2(fd, number)
        os.execve(program.argv[0], program.argv, {"PATH": os.defpath})
    finally:
        os._exit(1)
