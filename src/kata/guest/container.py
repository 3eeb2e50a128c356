"""One container: its state, its processes, and what may be done to it.

The sandbox creates and removes it; the runtime does the work.  Operations on one container take
turns where they change its state; execs, streams and waits do not wait for them.
"""

from __future__ import annotations

import os
import threading
import time

from kata.base.errors import Code, KataError
from kata.base.idmap import map_id, read_maps
from kata.guest import cgroup, files, mounthold, signals, states, stuck
from kata.guest.process import Process
from kata.guest.states import StateMachine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.base.idmap import IdMap
    from kata.base.log import Logger
    from kata.guest.exits import Exit
    from kata.guest.runtime import Runtime
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json

# How long a killed container may take to die when the host names no limit: under emulation the
# kernel's tear-down of a large process takes seconds.
KILL_TIMEOUT_S = 60.0
# An exec whose end was fetched but whose output nobody ever asked for is forgotten after this.
FORGET_AFTER_S = 60.0


class Container:
    """A container of the sandbox, from its creation to its removal."""

    def __init__(self, container_id: str, folder: str, runtime: Runtime, log: Logger) -> None:
        """``folder`` is the container's own, made at creation and removed at the end."""
        self.id = container_id
        self.cgroup = ""
        self._folder = folder
        self._runtime = runtime
        self._log = log
        self._machine = StateMachine(container_id)
        self._operation = threading.Lock()
        self._lock = threading.Lock()
        self._init = Process(f"container {container_id}", self._on_exit)
        self._init_name = container_id
        self._execs: dict[str, Process | None] = {}
        self._observe: Callable[[], None] | None = None
        self._discarded = False
        self._shares_pids = False
        self._mounts_fd = -1
        self._uid_map: IdMap = ()

    @property
    def state(self) -> str:
        """The container's state, one of kata.guest.states."""
        return self._machine.state

    @property
    def pid(self) -> int:
        """The first process's pid in the agent's pid namespace."""
        return self._init.pid

    def create(self, init_name: str, spec: dict[str, Json], observe: Callable[[], None]) -> None:
        """Create the container; its first process waits for ``start``.

        ``init_name`` is the exec id by which the host may also name the first process; ``observe``
        is called at that process's end, before anybody is told.
        """
        self._init_name = init_name or self.id
        self._observe = observe
        self._shares_pids = _joins_pids(spec)
        self._uid_map = read_maps(spec.get("linux"))[0]
        os.makedirs(self._folder, 0o700)
        try:
            self._launch(
                self._init,
                spec.get("process"),
                lambda stdio, exit_: self._runtime.create(
                    self.id, self._folder, spec, stdio, exit_
                ),
            )
            self._mounts_fd = mounthold.hold(self._init.pid)
            self.cgroup = cgroup.find_path(self._init.pid)
            self._runtime.adopt(self.id, self._init.pid, spec)
        except BaseException as error:
            self._undo(error)
            raise
        self._machine.advance(states.CREATED)

    def start(self) -> None:
        """Let the first process run."""
        with self._operation:
            self._machine.require("start", states.CREATED)
            self._runtime.start(self.id)
            self._machine.advance(states.RUNNING)

    def execute(self, exec_id: str, process: dict[str, Json]) -> None:
        """Start one more process."""
        self._machine.require("exec in", states.CREATED, states.RUNNING)
        exec_ = Process(f"exec {exec_id} of container {self.id}")
        self._reserve(exec_id)
        try:
            self._launch(
                exec_,
                process,
                lambda stdio, exit_: self._runtime.execute(
                    self.id, process, f"{self._folder}/exec-{exec_id}", stdio, exit_
                ),
            )
        except BaseException:
            with self._lock:
                self._execs.pop(exec_id, None)
            raise
        with self._lock:
            if not self._discarded:
                self._execs[exec_id] = exec_
                return
        exec_.abandon()  # the container was removed meanwhile
        raise KataError(f"exec in container {self.id}: it was removed", Code.FAILED_PRECONDITION)

    def get_process(self, exec_id: str) -> Process:
        """Return a process by its exec id; the container's own id, or none, is the first one."""
        if exec_id in ("", self.id, self._init_name):
            return self._init
        with self._lock:
            process = self._execs.get(exec_id)
        if process is None:
            raise KataError(
                f"find process: no exec {exec_id} in container {self.id}", Code.NOT_FOUND
            )
        return process

    def forget_finished(self, exec_id: str) -> None:
        """Drop an exec once its end was fetched and its output read to the end."""
        with self._lock:
            process = self._execs.get(exec_id)
            if process is None or not (process.finished and process.drained):
                return
            del self._execs[exec_id]
        process.close()

    def kill_all(self) -> None:
        """Kill every process of the container; one that has stopped is no error.

        What keeps a process from ending is logged.
        """
        if self._machine.state == states.STOPPED:
            return
        if self._init.pid:
            stuck.watch(self._init, self.cgroup, self._log)
        if self.cgroup:
            cgroup.kill(self.cgroup)
        else:
            self._kill_by_runtime()

    def signal_all(self, number: int) -> None:
        """Send a signal to every process; those that start meanwhile may be missed.

        Where there is no cgroup, to the first one.
        """
        if not self.cgroup:
            self._init.signal(number)
            return
        signals.check(f"container {self.id}", number)
        for pid in cgroup.list_pids(self.cgroup):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass  # it has just ended

    def pause(self) -> None:
        """Freeze the processes; returns when they stand still."""
        with self._operation:
            self._machine.require("pause", states.RUNNING)
            if self.cgroup:
                cgroup.freeze(self.cgroup, "1")
            else:
                self._runtime.pause(self.id)
            self._machine.advance(states.PAUSED)

    def resume(self) -> None:
        """Let frozen processes go on."""
        with self._operation:
            self._machine.require("resume", states.PAUSED)
            if self.cgroup:
                cgroup.freeze(self.cgroup, "0")
            else:
                self._runtime.resume(self.id)
            self._machine.advance(states.RUNNING)

    def update(self, resources: dict[str, Json]) -> None:
        """Change the container's limits."""
        with self._operation:
            self._machine.require("update", states.CREATED, states.RUNNING, states.PAUSED)
            self._runtime.update(self.id, resources, f"{self._folder}/update")

    def remove(self, timeout_s: float) -> None:
        """Kill what runs, and remove everything of the container.

        ``timeout_s`` is how long its end may take, 0 for the agent's own limit.  Raises
        DEADLINE_EXCEEDED; the call may then be made again.
        """
        with self._operation:
            self._end(timeout_s or KILL_TIMEOUT_S)
            self._discard()

    def end(self) -> None:
        """Kill what runs, and leave everything else to the end of the machine.

        Raises DEADLINE_EXCEEDED.
        """
        with self._operation:
            self._end(KILL_TIMEOUT_S)

    def _end(self, limit_s: float) -> None:
        self.kill_all()
        if self._init.pid and self._init.exit.wait(limit_s) is None:
            raise KataError(
                f"remove container {self.id}: still alive {limit_s:g} s after SIGKILL",
                Code.DEADLINE_EXCEEDED,
            )

    def _launch(
        self,
        process: Process,
        settings: Json,
        start: Callable[[Stdio, Exit], int],
    ) -> None:
        console_path = ""
        uid = 0
        if isinstance(settings, dict):
            user = settings.get("user")
            uid = int(user["uid"]) if isinstance(user, dict) else 0  # type: ignore[arg-type]
            if settings.get("terminal"):
                # A Unix socket's path has at most 107 bytes, an id up to 76: no id in this one.
                console_path = f"{os.path.dirname(self._folder)}/.tty-{id(process):x}"
        process.launch(map_id(uid, self._uid_map), console_path, start)

    def _reserve(self, exec_id: str) -> None:
        """Take an exec id; one whose process has finished may be used again."""
        now = time.monotonic()
        with self._lock:
            for known, process in list(self._execs.items()):
                if process is not None and _is_forgotten(process, known == exec_id, now):
                    del self._execs[known]
                    process.close()
            if exec_id in self._execs or exec_id in (self.id, self._init_name):
                raise KataError(
                    f"exec in container {self.id}: exec {exec_id} exists already",
                    Code.ALREADY_EXISTS,
                )
            self._execs[exec_id] = None

    def _kill_by_runtime(self) -> None:
        try:
            self._runtime.kill_all(self.id)
        except KataError:
            # Without cgroups; the others end with the first process of their pid namespace.
            self._init.signal(signals.SIGKILL)

    def _on_exit(self, status: int) -> None:
        if self._observe is not None:
            self._observe()
        if self._shares_pids and self.cgroup:
            # Elsewhere the others end with the first process of their pid namespace.
            cgroup.kill(self.cgroup)
        self._machine.advance(states.STOPPED)

    def _undo(self, error: BaseException) -> None:
        try:
            self._discard()
        except (KataError, OSError) as second:
            if isinstance(error, KataError):
                error.hint = f"cleaning up failed as well: {second}"

    def _discard(self) -> None:
        self._machine.advance(states.STOPPED)
        try:
            self._runtime.delete(self.id)
        finally:
            with self._lock:
                self._discarded = True
                execs, self._execs = self._execs, {}
            for process in (self._init, *execs.values()):
                if process is not None:
                    process.close()
            if self._mounts_fd >= 0:
                mounthold.let_go(self._mounts_fd)
                self._mounts_fd = -1
            files.remove_folder(self._folder)


def _joins_pids(spec: dict[str, Json]) -> bool:
    linux = spec.get("linux")
    entries = linux.get("namespaces") if isinstance(linux, dict) else None
    return any(
        isinstance(entry, dict) and entry.get("type") == "pid" and bool(entry.get("path"))
        for entry in (entries if isinstance(entries, list) else [])
    )


def _is_forgotten(process: Process, wanted: bool, now: float) -> bool:
    """Whether a finished exec gives up its id: to one that ``wanted`` it, or by age."""
    if not process.finished:
        return False
    return (
        wanted or process.drained or (process.unread and now - process.waited_at > FORGET_AFTER_S)
    )
