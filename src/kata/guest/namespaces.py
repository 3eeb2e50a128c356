"""The namespaces that the containers of a sandbox share."""

from __future__ import annotations

import os
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kata.oci.render import Json

_KINDS = {"ipc": syscalls.CLONE_NEWIPC, "uts": syscalls.CLONE_NEWUTS}
# sethostname(2): __NEW_UTS_LEN
_MAX_HOSTNAME = 64
_OTHER = "container:"


class SandboxNamespaces:
    """IPC and UTS namespaces held by bind mounts, as no process may live in them yet."""

    def __init__(self, folder: str) -> None:
        """``folder`` is made when needed."""
        self._folder = folder
        self.paths: dict[str, str] = {}

    def create(self, hostname: str) -> None:
        """Make the namespaces, or give those that are there their host name.

        Raises OSError, or INVALID_ARGUMENT for the host name.
        """
        if len(hostname.encode()) > _MAX_HOSTNAME:
            raise KataError(
                f"set hostname {hostname!r}: more than {_MAX_HOSTNAME} bytes", Code.INVALID_ARGUMENT
            )
        os.makedirs(self._folder, exist_ok=True)
        failures: list[OSError] = []

        # unshare(2) changes the calling thread only; the namespaces outlive it by the bind mounts.
        def make() -> None:
            try:
                self._make(hostname)
            except OSError as error:
                failures.append(error)

        thread = threading.Thread(target=make, name="namespaces")
        thread.start()
        thread.join()
        if failures:
            self.close()
            raise failures[0]

    def close(self) -> None:
        """Let the namespaces go.  May be called twice."""
        for path in self.paths.values():
            syscalls.umount(path, syscalls.MNT_DETACH)
            os.unlink(path)
        self.paths = {}

    def _make(self, hostname: str) -> None:
        if "uts" in self.paths:
            _enter(self.paths["uts"])
        for kind, flag in _KINDS.items():
            if kind in self.paths:
                continue
            syscalls.unshare(flag)
            path = f"{self._folder}/{kind}"
            os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
            syscalls.mount(f"/proc/thread-self/ns/{kind}", path, "", syscalls.MS_BIND)
            self.paths[kind] = path
        if hostname:
            set_hostname(hostname)


def _enter(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(fd)
    finally:
        os.close(fd)


def set_hostname(hostname: str) -> None:
    """sethostname(2) in the caller's namespace, without the socket module."""
    import _socket

    _socket.sethostname(hostname)


def place(spec: dict[str, Json], shared: Mapping[str, str], find_pid: Callable[[str], int]) -> None:
    """Let a container join the sandbox's namespaces where its specification names no others.

    ``shared`` has paths by kind.  A path ``container:ID`` is that container's, whose first process
    ``find_pid`` tells.  A container always gets a pid namespace: upstream's host takes
    the entry away and leaves it to the agent.
    """
    linux = spec.setdefault("linux", {})
    if not isinstance(linux, dict):
        return
    entries = linux.setdefault("namespaces", [])
    if not isinstance(entries, list):
        return
    kinds = set()
    for entry in entries:
        if isinstance(entry, dict):
            kind = str(entry.get("type"))
            kinds.add(kind)
            path = str(entry.get("path") or "")
            if path.startswith(_OTHER):
                entry["path"] = f"/proc/{find_pid(path[len(_OTHER) :])}/ns/{kind}"
            elif kind in shared and not path:
                entry["path"] = shared[kind]
    if "pid" not in kinds:
        own: dict[str, Json] = {"type": "pid"}
        if "pid" in shared:
            own["path"] = shared["pid"]
        entries.append(own)
