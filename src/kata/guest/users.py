"""A pod's user namespace, with the namespaces that must belong to it.

What a namespace lets its users do is theirs only who are root in the user namespace in which it
was made (user_namespaces(7)).  So a pod whose users are mapped gets IPC, UTS and pid namespaces
made in its own.  A process holds them: the first of the pid namespace, by Debian's catatonit.
"""

from __future__ import annotations

import os
import threading
import time

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.guest import files, signals
from kata.guest.namespaces import set_hostname
from kata.guest.pause import PROGRAM as FIRST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.oci.render import Json

_PROGRAM = "/usr/bin/unshare"
_ARGV = (_PROGRAM, "--user", "--ipc", "--uts", "--pid", "--fork", "--kill-child", FIRST, "-P")
_TIMEOUT_S = 10.0
_FILES = {"uidMappings": "uid_map", "gidMappings": "gid_map"}

# Of each line of a map: the first id in the container, the first in the guest, how many.
IdMap = tuple[tuple[int, int, int], ...]


class MappedUsers:
    """Made when the first container asks for it; there is one map in a pod."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._maps: dict[str, IdMap] = {}
        self._pid = 0

    def join(self, container_id: str, spec: dict[str, Json], hostname: str) -> dict[str, str]:
        """Return the paths of the namespaces by kind; ``pid`` is for those that share it.

        Raises INVALID_ARGUMENT for a map that is none, or another one than the pod's.
        """
        maps = {key: read_map(spec, key) for key in _FILES}
        for key, id_map in maps.items():
            if not id_map:
                raise KataError(
                    f"create container {container_id}: linux.{key}: a user namespace needs it",
                    Code.INVALID_ARGUMENT,
                )
        with self._lock:
            if not self._pid:
                self._start(maps, hostname)
            if maps != self._maps:
                raise KataError(
                    f"create container {container_id}: linux.uidMappings and gidMappings are"
                    " not those of the sandbox's first container",
                    Code.INVALID_ARGUMENT,
                )
            paths = {kind: f"/proc/{self._pid}/ns/{kind}" for kind in ("user", "ipc", "uts")}
            return {**paths, "pid": f"/proc/{self._pid}/ns/pid_for_children"}

    def close(self) -> None:
        """End the process that holds the namespaces.  May be called twice."""
        with self._lock:
            if self._pid:
                try:
                    os.kill(self._pid, signals.SIGKILL)
                except ProcessLookupError:
                    pass
            self._pid = 0

    def _start(self, maps: dict[str, IdMap], hostname: str) -> None:
        for program in (_PROGRAM, FIRST):
            if not os.path.exists(program):
                raise KataError(f"map users: there is no {program}", Code.UNIMPLEMENTED)
        self._pid = os.posix_spawn(_PROGRAM, _ARGV, {}, setsigmask=())
        try:
            _wait_for_child(self._pid)
            for key, name in _FILES.items():
                _write_map(f"/proc/{self._pid}/{name}", key, maps[key])
            _name_host(f"/proc/{self._pid}/ns/uts", hostname)
        except BaseException:
            os.kill(self._pid, signals.SIGKILL)
            self._pid = 0
            raise
        self._maps = maps


def are_mapped(spec: dict[str, Json]) -> bool:
    """Return whether a container asks for a user namespace of its pod's."""
    linux = spec.get("linux")
    entries = linux.get("namespaces") if isinstance(linux, dict) else None
    return any(
        isinstance(entry, dict) and entry.get("type") == "user" and not entry.get("path")
        for entry in (entries if isinstance(entries, list) else [])
    )


def read_map(spec: dict[str, Json], key: str) -> IdMap:
    """Return a map of a specification: ``uidMappings`` or ``gidMappings``."""
    linux = spec.get("linux")
    entries = linux.get(key) if isinstance(linux, dict) else None
    return tuple(
        (int(entry["containerID"]), int(entry["hostID"]), int(entry["size"]))  # type: ignore[arg-type]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    )


def map_id(number: int, id_map: IdMap) -> int:
    """Return the guest's number of a container's user or group; unchanged without a map."""
    for inside, outside, size in id_map:
        if inside <= number < inside + size:
            return outside + number - inside
    return number


def _wait_for_child(pid: int) -> None:
    """Wait until the program has made the namespaces and the first process in them."""
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        try:
            os.readlink(f"/proc/{pid}/ns/pid_for_children")
            if _differs(pid, "pid_for_children"):
                return
        except FileNotFoundError:
            pass  # there is no first process yet
        time.sleep(0.002)
    raise KataError(f"map users: no namespaces after {_TIMEOUT_S:g} s", Code.DEADLINE_EXCEEDED)


def _differs(pid: int, kind: str) -> bool:
    return os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def _write_map(path: str, key: str, id_map: Sequence[tuple[int, int, int]]) -> None:
    text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in id_map)
    try:
        files.control(path, text)
    except OSError as error:
        raise KataError(
            f"set linux.{key} {text.strip()!r}: {error.strerror}", Code.INVALID_ARGUMENT
        ) from error


def _name_host(path: str, hostname: str) -> None:
    """Set the host name in a UTS namespace.  setns(2) moves the calling thread, for good."""
    if not hostname:
        return
    failures: list[OSError] = []

    def run() -> None:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                syscalls.setns(fd, syscalls.CLONE_NEWUTS)
            finally:
                os.close(fd)
            set_hostname(hostname)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="hostname")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
