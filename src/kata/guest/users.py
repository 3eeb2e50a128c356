"""A pod's user namespace, with the namespaces that must belong to it.

What a namespace lets its users do is theirs only who are root in the user namespace in which it
was made (user_namespaces(7)).  So a pod whose users are mapped gets IPC, UTS and pid namespaces
made in its own.  A process holds them: the first of the pid namespace, by Debian's catatonit.

Their network is the guest's own, which is not theirs, and whose sysfs only the guest's root may
mount (sysfs_init_fs_context in the kernel's fs/sysfs/mount.c): it is mounted once, to be bound.
"""

from __future__ import annotations

import os
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.base.idmap import UNMAPPED, UNSHARE, read_maps, wait_for_namespace, write_maps
from kata.guest import signals
from kata.guest.namespaces import set_hostname
from kata.guest.pause import PROGRAM as FIRST

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.idmap import IdMaps
    from kata.oci.render import Json

_ARGV = (UNSHARE, "--user", "--ipc", "--uts", "--pid", "--fork", "--kill-child", FIRST, "-P")


class MappedUsers:
    """Made when the first container asks for it; there is one map in a pod."""

    def __init__(self, sysfs: str) -> None:
        """``sysfs`` is the folder where the network's is mounted; it is made when needed."""
        self._sysfs = sysfs
        self._lock = threading.Lock()
        self._maps = UNMAPPED
        self._pid = 0

    def join(self, container_id: str, spec: dict[str, Json], hostname: str) -> dict[str, str]:
        """Return the paths of the namespaces by kind; ``pid`` is for those that share it.

        Raises INVALID_ARGUMENT for a map that is none, or another one than the pod's.
        """
        maps = read_maps(spec.get("linux"))
        for key, id_map in zip(("uidMappings", "gidMappings"), maps, strict=True):
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
        _bind_sysfs(spec, self._sysfs)
        return {**paths, "pid": f"/proc/{self._pid}/ns/pid_for_children"}

    def close(self) -> None:
        """End the process that holds the namespaces.  May be called twice."""
        with self._lock:
            self._end()

    def _start(self, maps: IdMaps, hostname: str) -> None:
        for program in (UNSHARE, FIRST):
            if not os.path.exists(program):
                raise KataError(f"map users: there is no {program}", Code.UNIMPLEMENTED)
        self._pid = os.posix_spawn(UNSHARE, _ARGV, {}, setsigmask=())
        try:
            wait_for_namespace(self._pid, "pid_for_children")
            write_maps(self._pid, maps)
            _name_host(f"/proc/{self._pid}/ns/uts", hostname)
            os.makedirs(self._sysfs, exist_ok=True)
            syscalls.mount("sysfs", self._sysfs, "sysfs", 0)
        except BaseException:
            self._end()
            raise
        self._maps = maps

    def _end(self) -> None:
        if self._pid:
            try:
                os.kill(self._pid, signals.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself
            if os.path.ismount(self._sysfs):
                syscalls.umount(self._sysfs, syscalls.MNT_DETACH)
        self._pid = 0


def are_mapped(spec: dict[str, Json]) -> bool:
    """Return whether a container asks for a user namespace of its pod's."""
    linux = spec.get("linux")
    entries = linux.get("namespaces") if isinstance(linux, dict) else None
    return any(
        isinstance(entry, dict) and entry.get("type") == "user" and not entry.get("path")
        for entry in (entries if isinstance(entries, list) else [])
    )


def _bind_sysfs(spec: dict[str, Json], source: str) -> None:
    """Have a container's sysfs be the one at ``source``, with the options that it asks for."""
    mounts = spec.get("mounts")
    for mount in mounts if isinstance(mounts, list) else []:
        if isinstance(mount, dict) and mount.get("type") == "sysfs":
            options = mount.get("options")
            asked = options if isinstance(options, list) else []
            mount.update(type="bind", source=source, options=["bind", *asked])


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
