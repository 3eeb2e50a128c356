"""Processes of the guest itself, for an operator who looks into it: the debug console.

To the agent they are processes of a container without an id, which has no files, cgroup or
namespaces of its own, and which only its host can name.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.guest import states
from kata.guest.container import Container
from kata.guest.runtime import Runtime
from kata.guest.spawn import ENVIRONMENT, spawn_leader, stdio_actions
from kata.guest.terminal import hand_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.log import Logger
    from kata.guest.exits import Exit
    from kata.guest.process import Process
    from kata.guest.reaper import Reaper
    from kata.guest.spawn import Action
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json

_FOLDER = "/run/kata-containers/console"
# A shell may know commands that are no files, as busybox does.
_SHELL = "/bin/sh"
_BY_SHELL = ("sh", "-c", '"$0" "$@"')


class Console(Container):
    """Takes the place of a container; only execs make sense in it."""

    def __init__(self, reaper: Reaper, log: Logger, folder: str = _FOLDER) -> None:
        """``folder`` is for sockets."""
        super().__init__("", folder, _Programs(reaper), log)
        os.makedirs(folder, 0o700, exist_ok=True)
        self._machine.advance(states.CREATED)
        self._machine.advance(states.RUNNING)

    def get_process(self, exec_id: str) -> Process:
        """Return a process by its exec id.  Raises INVALID_ARGUMENT without one."""
        if not exec_id:
            raise KataError("find process: no container and no exec named", Code.INVALID_ARGUMENT)
        return super().get_process(exec_id)

    def kill_all(self) -> None:
        """Refuse: these would be all processes of the machine."""
        raise KataError("kill all: no container named", Code.INVALID_ARGUMENT)


class _Programs(Runtime):
    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper

    def execute(
        self, container_id: str, process: dict[str, Json], scratch: str, stdio: Stdio, exit_: Exit
    ) -> int:
        """See Runtime."""
        arguments = [str(word) for word in process["args"]]  # type: ignore[union-attr]
        pairs = [str(pair).partition("=") for pair in process.get("env") or ()]  # type: ignore[union-attr]
        environment = {**ENVIRONMENT, "HOME": "/", **{name: text for name, _, text in pairs}}
        if not stdio.console_path:
            return self._start(arguments, environment, stdio_actions(stdio.fds), exit_)
        master, slave = os.openpty()
        try:
            hand_on([master], stdio.console_path)
            # Opened by the leader of a new session, it becomes that session's terminal (tty(4)).
            actions: list[Action] = [
                (os.POSIX_SPAWN_OPEN, 0, os.ttyname(slave), os.O_RDWR, 0),
                (os.POSIX_SPAWN_DUP2, 0, 1),
                (os.POSIX_SPAWN_DUP2, 0, 2),
            ]
            return self._start(arguments, environment, actions, exit_)
        finally:
            os.close(slave)

    def _start(
        self,
        arguments: list[str],
        environment: dict[str, str],
        actions: list[Action],
        exit_: Exit,
    ) -> int:
        program = _find_program(arguments[0], environment["PATH"])
        if not program:
            program, arguments = _SHELL, [*_BY_SHELL, *arguments]
        try:
            with self._reaper.birth():
                pid = spawn_leader(program, arguments, environment, actions)
                self._reaper.claim(pid, exit_)
                return pid
        except OSError as error:
            raise KataError(f"exec {program}: {error.strerror}", Code.NOT_FOUND) from error


def _find_program(name: str, path: str) -> str:
    """Return a program's file, empty where there is none."""
    folders = [""] if "/" in name else path.split(":")
    for file in (os.path.join(folder, name) for folder in folders):
        if os.path.isfile(file) and os.access(file, os.X_OK):
            return file
    return ""
