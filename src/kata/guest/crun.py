"""Containers by crun, one run of the program for each request.

crun writes its errors to the file given by --log; its standard streams are the new process's.
"""

from __future__ import annotations

import os
import time

from kata.base.errors import Code, KataError
from kata.base.jsontext import render_json
from kata.guest import files
from kata.guest.runtime import Runtime
from kata.guest.spawn import ENVIRONMENT, run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from kata.base.log import Logger
    from kata.guest.exits import Exit
    from kata.guest.reaper import Reaper
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json

# Measured under emulation: 0.2 to 0.5 s.  The host gives up on CreateContainer after 60 s.
TIMEOUT_S = 50.0
# crun 1.8 refuses every version without a "1.0" in it.  Later versions of the specification only
# add members, and crun ignores those it does not know.
_SPEC_VERSION = "1.0.2"
_SILENT = (None, None, None)
# crun runs a copy of itself, so that no container can change its program.  It takes this for a sign
# that there is no need where it also sees its program on a read-only file system, as in the guest.
_ENVIRONMENT = {**ENVIRONMENT, "_LIBCONTAINER_CLONED_BINARY": "1"}


class Crun(Runtime):
    """Run crun with a state folder of its own."""

    def __init__(self, root: str, cgroup_manager: str, reaper: Reaper, log: Logger) -> None:
        """``root`` is made here; ``cgroup_manager`` is crun's option: cgroupfs or disabled."""
        os.makedirs(root, 0o700, exist_ok=True)
        self._root = root
        self._manager = cgroup_manager
        self._reaper = reaper
        self._log = log
        self._numbers = iter(range(1, 1 << 62))

    def create(
        self, container_id: str, bundle: str, spec: dict[str, Json], stdio: Stdio, exit_: Exit
    ) -> int:
        """See Runtime."""
        bundled = {**spec, "ociVersion": _SPEC_VERSION}
        files.write(f"{bundle}/config.json", render_json(bundled))
        pid_file = f"{bundle}/pid"
        options = ["--bundle", bundle, "--pid-file", pid_file]
        options += _console_options(stdio)
        with self._reaper.birth():
            self._run("create", [*options, container_id], stdio.fds)
            pid = _take_pid(pid_file)
            self._reaper.claim(pid, exit_)
        return pid

    def start(self, container_id: str) -> None:
        """See Runtime."""
        self._run("start", [container_id])

    def execute(
        self, container_id: str, process: dict[str, Json], scratch: str, stdio: Stdio, exit_: Exit
    ) -> int:
        """See Runtime."""
        process_file, pid_file = f"{scratch}.json", f"{scratch}.pid"
        options = ["--detach", "--process", process_file, "--pid-file", pid_file]
        options += _console_options(stdio)
        try:
            files.write(process_file, render_json(process))
        except FileNotFoundError:
            # Its folder went meanwhile, and the container with it.
            raise KataError(f"no container {container_id}", Code.NOT_FOUND) from None
        try:
            with self._reaper.birth():
                self._run("exec", [*options, container_id], stdio.fds)
                pid = _take_pid(pid_file)
                self._reaper.claim(pid, exit_)
        finally:
            try:
                os.unlink(process_file)
            except FileNotFoundError:
                pass  # the container was removed meanwhile
        return pid

    def kill_all(self, container_id: str) -> None:
        """See Runtime."""
        self._run("kill", ["--all", container_id, "KILL"])

    def pause(self, container_id: str) -> None:
        """See Runtime."""
        self._run("pause", [container_id])

    def resume(self, container_id: str) -> None:
        """See Runtime."""
        self._run("resume", [container_id])

    def update(self, container_id: str, resources: dict[str, Json], scratch: str) -> None:
        """See Runtime."""
        resources_file = f"{scratch}.json"
        files.write(resources_file, render_json(resources))
        try:
            self._run("update", ["--resources", resources_file, container_id])
        finally:
            os.unlink(resources_file)

    def delete(self, container_id: str) -> None:
        """See Runtime."""
        if os.path.isdir(f"{self._root}/{container_id}"):
            self._run("delete", ["--force", container_id])

    def _run(
        self, verb: str, arguments: Sequence[str], stdio: Sequence[int | None] = _SILENT
    ) -> None:
        log_file = f"{self._root}/.log-{next(self._numbers)}"
        argv = ["crun", "--root", self._root, "--cgroup-manager", self._manager]
        argv += ["--log", log_file, "--log-format", "text", verb, *arguments]
        began = time.monotonic()
        try:
            status = run(self._reaper, argv, stdio, TIMEOUT_S, _ENVIRONMENT)
            if status:
                reason = _read_reason(log_file) or f"exit status {status}"
                raise KataError(f"crun {verb} {arguments[-1]}: {reason}", Code.UNKNOWN)
        finally:
            files.remove(log_file)
        self._log.debug("crun", verb=verb, ms=int((time.monotonic() - began) * 1000))


def _console_options(stdio: Stdio) -> list[str]:
    return ["--console-socket", stdio.console_path] if stdio.console_path else []


def _take_pid(pid_file: str) -> int:
    pid = int(files.read(pid_file))
    os.unlink(pid_file)
    return pid


def _read_reason(log_file: str) -> str:
    return (files.find(log_file) or "").strip().replace("\n", "; ")
