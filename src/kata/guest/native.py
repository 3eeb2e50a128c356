"""Containers that crun creates and removes; what is done to them in between the agent does itself.

crun loads itself and its libraries twice for each exec and once for a start; under emulation that
is most of what they take.  What cannot be done here, crun does.
"""

from __future__ import annotations

import _socket
import os

from kata.base import fdpass
from kata.base.errors import Code, KataError, describe_error
from kata.guest import cgroup, entry, signals
from kata.guest.crun import TIMEOUT_S, Crun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.log import Logger
    from kata.guest.exits import Exit
    from kata.guest.forker import Forker
    from kata.guest.reaper import Reaper
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json

# Members of a process, and of a seccomp profile, that only crun obeys.
_CRUNS = ("ioPriority", "scheduler", "execCPUAffinity", "apparmorProfile", "selinuxLabel")
_CRUNS_FILTERS = ("flags", "listenerPath")


class Native(Crun):
    """Crun, but for ``start`` and ``execute``."""

    def __init__(
        self, root: str, cgroup_manager: str, reaper: Reaper, log: Logger, forker: Forker
    ) -> None:
        super().__init__(root, cgroup_manager, reaper, log)
        self._forker = forker
        self._forker_lost = False
        self._inits: dict[str, tuple[int, list[str]]] = {}

    def adopt(self, container_id: str, pid: int, spec: dict[str, Json]) -> None:
        """See Runtime."""
        linux = spec.get("linux")
        profile = linux.get("seccomp") if isinstance(linux, dict) else None
        if isinstance(profile, dict) and any(profile.get(key) for key in _CRUNS_FILTERS):
            return
        hooks = spec.get("hooks")
        if isinstance(hooks, dict) and hooks.get("poststart"):
            return
        folders = cgroup.list_folders(pid) if self._manager != "disabled" else []
        try:
            self._inits[container_id] = os.pidfd_open(pid), folders
        except ProcessLookupError:
            pass  # it has ended already

    def start(self, container_id: str) -> None:
        """See Runtime.

        The first process waits for a byte from a FIFO, whose absence says that it was started.
        """
        path = f"{self._root}/{container_id}/exec.fifo"
        fd = -1
        if container_id in self._inits:
            try:
                fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                pass  # it does not wait yet, or has ended: crun knows more
        if fd < 0:
            super().start(container_id)
            return
        try:
            os.unlink(path)
            os.write(fd, b"\0")
        finally:
            os.close(fd)

    def execute(
        self, container_id: str, process: dict[str, Json], scratch: str, stdio: Stdio, exit_: Exit
    ) -> int:
        """See Runtime."""
        found = self._inits.get(container_id)
        if found is None or self._forker_lost or any(process.get(key) for key in _CRUNS):
            return super().execute(container_id, process, scratch, stdio, exit_)
        init_fd, folders = found
        named = zip(("stdin", "stdout", "stderr"), stdio.fds, strict=True)
        fds = {"init": init_fd, **{name: fd for name, fd in named if fd is not None}}
        filter_fd = self._open_filter(container_id)
        if filter_fd >= 0:
            fds["filter"] = filter_fd
        try:
            with self._reaper.birth():
                try:
                    answers = self._forker.enter(process, folders, fds)
                except OSError as error:
                    self._forker_lost = True
                    self._log.warning("execs go by crun", reason=describe_error(error))
                    return super().execute(container_id, process, scratch, stdio, exit_)
                try:
                    pid = _follow(answers, stdio.console_path)
                finally:
                    answers.close()
                self._reaper.claim(pid, exit_)
                return pid
        finally:
            if filter_fd >= 0:
                os.close(filter_fd)

    def delete(self, container_id: str) -> None:
        """See Runtime."""
        found = self._inits.pop(container_id, None)
        if found is not None:
            os.close(found[0])
        super().delete(container_id)

    def _open_filter(self, container_id: str) -> int:
        """Return a descriptor of the container's seccomp program, as crun has made it."""
        try:
            path = f"{self._root}/{container_id}/seccomp.bpf"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1


def _follow(answers: _socket.socket, console_path: str) -> int:
    """Return the pid of a process that runs its program by now; raise why it does not."""
    answers.settimeout(TIMEOUT_S)
    pid = 0
    while True:
        try:
            parts, fds = fdpass.receive(answers)
        except TimeoutError as error:
            if pid:
                os.kill(pid, signals.SIGKILL)
            raise KataError(
                f"enter container: not done after {TIMEOUT_S:g} s", Code.DEADLINE_EXCEEDED
            ) from error
        if not parts:
            break
        if parts[0] == entry.PID:
            pid = int(parts[1])
        elif parts[0] == entry.TERMINAL:
            _hand_on(fds, console_path)
        else:
            message = parts[2].decode("utf-8", "replace")
            raise KataError(f"exec: {message}", int(parts[1]))
    if not pid:
        raise KataError("enter container: the process that does it was killed", Code.UNKNOWN)
    return pid


def _hand_on(fds: list[int], console_path: str) -> None:
    """Send a terminal's master where runtimes send it."""
    try:
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            sock.connect(console_path)
            fdpass.send(sock, [b"terminal"], fds)
        finally:
            sock.close()
    finally:
        for fd in fds:
            os.close(fd)
