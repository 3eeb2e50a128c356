"""Containers by the agent itself; what it cannot do, crun does.

crun loads itself and its libraries once or twice for each request; under emulation that is most of
what they take.  A container that crun has made is still started and entered by the agent.
"""

from __future__ import annotations

import _socket
import os

from kata.base import fdpass
from kata.base.errors import Code, KataError
from kata.guest import birth, cgroup, entry, limits, seccomp, signals
from kata.guest.crun import TIMEOUT_S, Crun
from kata.guest.handle import Handle
from kata.guest.terminal import hand_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.base.log import Logger
    from kata.guest.exits import Exit
    from kata.guest.forker import Forker
    from kata.guest.reaper import Reaper
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json


class _Own:
    """What the agent holds of a container that it has made itself."""

    def __init__(self) -> None:
        self.filter: Handle | None = None
        self.cgroup = ""
        # Of the first process, until it runs its program.
        self.answers: _socket.socket | None = None

    @property
    def cgroups(self) -> list[str]:
        """The folders that its processes join."""
        return [self.cgroup] if self.cgroup else []

    def remove(self) -> None:
        """Let it go; what runs in its cgroup is killed.  Raises DEADLINE_EXCEEDED."""
        if self.answers is not None:
            self.answers.close()
        if self.filter is not None:
            self.filter.close()
        if self.cgroup:
            limits.remove(self.cgroup)


class Native(Crun):
    """Containers by the agent, and by crun where need be."""

    def __init__(
        self, root: str, cgroup_manager: str, reaper: Reaper, log: Logger, forker: Forker
    ) -> None:
        super().__init__(root, cgroup_manager, reaper, log)
        self._forker = forker
        # Of each container that can be entered: its first process's pidfd, and its cgroups.
        self._inits: dict[str, tuple[Handle, list[str]]] = {}
        self._own: dict[str, _Own] = {}

    def create(
        self, container_id: str, bundle: str, spec: dict[str, Json], stdio: Stdio, exit_: Exit
    ) -> int:
        """See Runtime."""
        obstacle = self._find_obstacle(spec)
        if obstacle:
            self._log.debug("created by crun", container=container_id, reason=obstacle)
            return super().create(container_id, bundle, spec, stdio, exit_)
        own = _Own()
        try:
            linux: Any = spec.get("linux") or {}
            fds = _name_streams(stdio)
            if linux.get("seccomp"):
                own.filter = Handle(seccomp.compile_profile(linux["seccomp"]))
                fds["filter"] = own.filter.fd
            if self._manager != "disabled":
                path = linux.get("cgroupsPath") or container_id
                own.cgroup, missing = limits.make(path, linux.get("resources") or {})
                self._warn_of(missing, container_id)
            with self._reaper.birth():
                own.answers = self._forker.create(spec, container_id, own.cgroups, fds)
                pid = _follow(own.answers, stdio.console_path, birth.READY)
                self._reaper.claim(pid, exit_)
        except BaseException:
            own.remove()
            raise
        self._own[container_id] = own
        return pid

    def adopt(self, container_id: str, pid: int, spec: dict[str, Json]) -> None:
        """See Runtime."""
        linux = spec.get("linux")
        profile = linux.get("seccomp") if isinstance(linux, dict) else None
        if isinstance(profile, dict) and any(profile.get(key) for key in seccomp.CRUNS):
            return
        hooks = spec.get("hooks")
        if isinstance(hooks, dict) and hooks.get("poststart"):
            return
        folders = cgroup.list_folders(pid) if self._manager != "disabled" else []
        try:
            self._inits[container_id] = Handle(os.pidfd_open(pid)), folders
        except ProcessLookupError:
            pass  # it has ended already

    def start(self, container_id: str) -> None:
        """See Runtime.

        The first process waits for a word, or for a byte from crun's FIFO, whose absence says that
        it was started.
        """
        own = self._own.get(container_id)
        if own is not None:
            self._start_own(own)
            return
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
        if found is None or any(process.get(key) for key in entry.CRUNS):
            return self._execute_by_crun(container_id, process, scratch, stdio, exit_)
        init, folders = found
        if not init.enter():
            raise KataError(f"enter container {container_id}: it was deleted", Code.NOT_FOUND)
        fds = {"init": init.fd, **_name_streams(stdio)}
        filter_fd = -1
        try:
            filter_fd = self._open_filter(container_id)
            if filter_fd >= 0:
                fds["filter"] = filter_fd
            return self._enter(process, folders, fds, stdio.console_path, exit_)
        finally:
            init.leave()
            if filter_fd >= 0:
                os.close(filter_fd)

    def _enter(
        self,
        process: dict[str, Json],
        folders: list[str],
        fds: dict[str, int],
        console_path: str,
        exit_: Exit,
    ) -> int:
        with self._reaper.birth():
            answers = self._forker.enter(process, folders, fds)
            try:
                pid = _follow(answers, console_path)
                if not pid:
                    raise KataError("enter container: its process was killed", Code.UNKNOWN)
            finally:
                answers.close()
            self._reaper.claim(pid, exit_)
            return pid

    def kill_all(self, container_id: str) -> None:
        """See Runtime."""
        self._require_crun("kill all of", container_id)
        super().kill_all(container_id)

    def pause(self, container_id: str) -> None:
        """See Runtime."""
        self._require_crun("pause", container_id)
        super().pause(container_id)

    def resume(self, container_id: str) -> None:
        """See Runtime."""
        self._require_crun("resume", container_id)
        super().resume(container_id)

    def update(self, container_id: str, resources: dict[str, Json], scratch: str) -> None:
        """See Runtime."""
        if container_id not in self._own:
            super().update(container_id, resources, scratch)
            return
        folder = self._own[container_id].cgroup
        obstacle = limits.find_obstacle(resources)
        if obstacle or not folder:
            raise KataError(
                f"update container {container_id}: cannot set {obstacle or 'limits'}",
                Code.UNIMPLEMENTED,
            )
        self._warn_of(limits.update(folder, resources), container_id)

    def delete(self, container_id: str) -> None:
        """See Runtime."""
        found, own = self._inits.get(container_id), self._own.get(container_id)
        if found is not None:
            init, _ = found
            if own is not None:
                signals.send(init, signals.SIGKILL)
            init.close()
        if own is None:
            super().delete(container_id)
        else:
            own.remove()
        # Known until now: who would enter it meanwhile is told that it is deleted.
        self._inits.pop(container_id, None)
        self._own.pop(container_id, None)

    def _warn_of(self, missing: str, container_id: str) -> None:
        if missing:
            self._log.warning(
                "limit left out: the guest's kernel has none", container=container_id, limit=missing
            )

    def _start_own(self, own: _Own) -> None:
        if own.answers is None:
            raise KataError("start container: it was started", Code.FAILED_PRECONDITION)
        try:
            own.answers.send(birth.START)
            _follow(own.answers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it was killed while it waited
        own.answers.close()
        own.answers = None

    def _find_obstacle(self, spec: dict[str, Json]) -> str:
        """Return why crun has to create a container; empty when it need not."""
        linux: Any = spec.get("linux") or {}
        if self._manager != "disabled" and not os.path.exists(f"{cgroup.ROOT}/cgroup.controllers"):
            return "cgroups of version 1"
        return birth.find_obstacle(spec) or limits.find_obstacle(linux.get("resources") or {})

    def _execute_by_crun(
        self, container_id: str, process: dict[str, Json], scratch: str, stdio: Stdio, exit_: Exit
    ) -> int:
        self._require_crun("exec in", container_id)
        return super().execute(container_id, process, scratch, stdio, exit_)

    def _require_crun(self, verb: str, container_id: str) -> None:
        if container_id in self._own:
            raise KataError(
                f"{verb} container {container_id}: not without crun, which has not made it",
                Code.UNIMPLEMENTED,
            )

    def _open_filter(self, container_id: str) -> int:
        """Return a descriptor of the container's seccomp program, -1 when it has none."""
        own = self._own.get(container_id)
        if own is not None:
            if own.filter is None:
                return -1
            with own.filter as fd:
                return os.dup(fd)
        try:
            path = f"{self._root}/{container_id}/seccomp.bpf"
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1


def _name_streams(stdio: Stdio) -> dict[str, int]:
    named = zip(("stdin", "stdout", "stderr"), stdio.fds, strict=True)
    return {name: fd for name, fd in named if fd is not None}


def _follow(answers: _socket.socket, console_path: str = "", last: bytes = b"") -> int:
    """Return the pid of a process that is ready, or runs its program; raise why it does not.

    ``last`` is the word that says so; without one it is the end of the answers.  0: no pid came.
    """
    answers.settimeout(TIMEOUT_S)
    pid, ready = 0, False
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
        elif parts[0] == last:
            ready = True
        elif parts[0] == entry.TERMINAL:
            hand_on(fds, console_path)
        else:
            message = parts[2].decode("utf-8", "replace")
            raise KataError(f"unable to start container process: {message}", int(parts[1]))
        if ready and pid:  # two processes tell the two
            break
    if last and not parts:
        raise KataError("create container: its first process was killed", Code.UNKNOWN)
    return pid
