"""kata-runtime create: a container whose process waits for ``start``."""

from __future__ import annotations

import os
import signal
import time

from kata.base import cgroups
from kata.base.errors import Code, KataError, describe_error
from kata.base.folders import remove_folder
from kata.base.mountinfo import list_mounts
from kata.cli.oci import bundle as bundles
from kata.cli.oci import record as records
from kata.cli.oci.child import Child
from kata.cli.oci.hooks import LATE, run_hooks, save_late_hooks
from kata.cli.oci.namespaces import plan_namespaces
from kata.cli.oci.placement import find_sandbox
from kata.cli.oci.record import Record
from kata.cli.oci.state import describe_state
from kata.cli.oci.streams import Console, Leash, open_console_socket, start_stand_in
from kata.cli.oci.task import Task, clean_up, start_shim
from kata.oci.bundle import annotations_of, check_sysctls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from kata.cli.oci.child import Tell
    from kata.cli.oci.namespaces import Namespaces
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_CONFIG = "config.json"
_STDIO = "standin:"


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Create a container and leave."""
    check_user(options.words[0])
    creation = Creation(settings, options)
    process = creation.process
    console_socket = check_console(process, options.text("console-socket"), detached=True)
    try:
        console = Console(_console_size(process)) if console_socket else None
        creation.make(console)
        if console is not None and console_socket is not None:
            console.send_master(console_socket)
            console.close()
        # An interruption is too late from here on: it would be a failure that leaves a container.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except BaseException:
        creation.undo()
        raise
    return 0


class Creation:
    """One container being created: made step by step, or undone."""

    def __init__(self, settings: Settings, options: Options) -> None:
        """Check everything that can be known beforehand.  Raises KataError; nothing is made."""
        self._settings = settings
        self.id = options.words[0]
        self._pid_file = options.text("pid-file")
        self._folder = records.folder_of(settings.root, self.id)
        self._bundle, self._spec = bundles.load_bundle(options.text("bundle"))
        self._rootfs = bundles.find_rootfs(self._bundle, self._spec)
        self._hooks = bundles.host_hooks(self._spec, ("prestart", "createRuntime"))
        self._late_hooks = {kind: bundles.host_hooks(self._spec, (kind,)) for kind in LATE}
        self._namespaces = bundles.namespaces_of(self._spec)
        check_sysctls(self._spec)
        self._undo: list[Callable[[], object]] = []
        check_descriptors(options)
        check_pid_file(self._pid_file)

    @property
    def process(self) -> dict[str, Any]:
        """Return the specification's process."""
        process: dict[str, Any] = self._spec["process"]
        return process

    def make(self, console: Console | None) -> Leash:
        """Make it; returns its stand-in.  On failure the caller undoes what was made."""
        namespaces = self._namespaces
        annotations = annotations_of(self._spec)
        root = self._settings.root
        records.make_folder(root, self.id)
        self._undo.append(lambda: remove_folder(self._folder))
        others = [other for other in records.list_records(root) if other.id != self.id]
        sandbox = find_sandbox(self.id, annotations, namespaces, others)
        folders = self._plan_cgroups()
        record = Record(
            id=self.id,
            folder=self._folder,
            bundle=self._bundle,
            rootfs=self._rootfs,
            sandbox=sandbox or self.id,
            created=_now(),
            owner=_user(),
            annotations=annotations,
            cgroups=[folder for folder in folders if not os.path.isdir(folder)],
        )
        # Before anything is made, so that it can be deleted should this program be killed.
        records.save_record(record)
        self._undo.append(lambda: cgroups.remove_folders(record.cgroups))
        cgroups.make_folders(folders)
        # A container of another's machine has that one's network.
        network = None if sandbox else namespaces.get("network")
        stand_ins = plan_namespaces(
            namespaces,
            _find_network(namespaces, others, sandbox),
            str(self._spec.get("hostname") or ""),
            folders,
        )
        leash = self._start_stand_in(stand_ins, console)
        record = record.with_stand_in(leash.pid, leash.start_time)
        record.mark_creating()
        records.save_record(record)
        save_late_hooks(record, self._late_hooks)
        run_hooks(self._hooks, describe_state(record, "creating"), self._bundle)
        # After the hooks, which may mount something.
        view = self._begin_view(leash)
        if network == "":
            network = f"/proc/{leash.pid}/ns/net"
        self._write_bundle(network or "", sandbox)
        self._start_shim(record)
        self._finish_view(view)
        self._create_task(record, terminal=console is not None)
        record.mark_created()
        leash.let_go()
        if self._pid_file:
            write_pid_file(self._pid_file, leash.pid)
        return leash

    def undo(self) -> None:
        """Take back what was made, in reverse; what cannot be is told."""
        while self._undo:
            step = self._undo.pop()
            try:
                step()
            except (KataError, OSError) as error:
                self._settings.warn(f"undo create {self.id}: {describe_error(error)}")

    def _plan_cgroups(self) -> list[str]:
        path = str(self._spec["linux"].get("cgroupsPath") or "")
        below = cgroups.expand_path(path)
        if below == "/":
            return []
        if ".." in below.split("/"):
            raise KataError(f"make cgroup {path}: it leads upwards", Code.INVALID_ARGUMENT)
        return [point + below for point in cgroups.find_all_hierarchies(list_mounts())]

    def _start_stand_in(self, namespaces: Namespaces, console: Console | None) -> Leash:
        link = f"{self._folder}/{records.LINK}"
        leash = start_stand_in(link, namespaces, self.process.get("args") or ["?"], console)
        self._undo.append(leash.kill)
        return leash

    def _begin_view(self, leash: Leash) -> Child:
        """Begin to give a stand-in the container's root."""
        leash.finish_start()

        def make(tell: Tell) -> None:
            from kata.cli.oci.view import Maker, plan_view

            maker = Maker(plan_view(self._spec, self._rootfs, list_mounts()))
            maker.make(self._folder, leash.pid)
            tell(maker.missing)

        view = Child(f"show {self.id} by its pid", make)
        self._undo.append(view.close)
        return view

    def _finish_view(self, view: Child) -> None:
        missing = view.receive()
        view.close()
        if missing:
            self._settings.warn(f"show {self.id} by its pid: not there: {'; '.join(missing)}")

    def _write_bundle(self, network: str, sandbox: str) -> None:
        import json

        spec = bundles.rewrite_spec(self._spec, self._rootfs, network, sandbox)
        with open(f"{self._folder}/{_CONFIG}", "w") as file:
            json.dump(spec, file)
        # The shim's log, which otherwise would be nowhere.
        open(f"{self._folder}/log", "w").close()

    def _start_shim(self, record: Record) -> None:
        root = self._settings.root
        if record.sandbox == self.id:
            self._undo.append(lambda: _end_shim(root, record))
            start_shim(root, self.id, self._folder, self._settings.config_path)

    def _create_task(self, record: Record, *, terminal: bool) -> None:
        root = self._settings.root
        with Task(root, record.sandbox, self.id) as task:
            # Before: one whose answer is not waited for may be created all the same.
            self._undo.append(lambda: _delete_task(root, record))
            task.create(self._folder, f"{_STDIO}{record.link}", terminal=terminal)


def check_user(container_id: str) -> None:
    """Raise for who cannot make machines' networks and mounts."""
    if os.geteuid() != 0:
        raise KataError(
            f"create {container_id}: only root can, this is user {os.geteuid()}",
            Code.PERMISSION_DENIED,
        )


def check_console(process: dict[str, Any], path: str, *, detached: bool) -> socket.socket | None:
    """Return the connection that the terminal goes to, if there is one.

    Raises KataError in runc's words when there is one and should not be, or the other way round.
    """
    terminal = bool(process.get("terminal"))
    if detached and terminal and not path:
        raise KataError(
            "cannot allocate tty if runc will detach without setting console socket",
            Code.INVALID_ARGUMENT,
        )
    if path and not (detached and terminal):
        raise KataError(
            "cannot use console socket if runc will not detach or allocate tty",
            Code.INVALID_ARGUMENT,
        )
    return open_console_socket(path) if path else None


def check_descriptors(options: Options) -> None:
    """Raise for descriptors that would have to pass into a machine."""
    if options.number("preserve-fds"):
        raise KataError(
            f"preserve {options.text('preserve-fds')} descriptors: a virtual machine cannot take"
            " them over",
            Code.INVALID_ARGUMENT,
        )


def check_pid_file(path: str) -> None:
    """Raise where the file could not be made."""
    folder = os.path.dirname(os.path.abspath(path))
    if path and not os.path.isdir(folder):
        raise KataError(f"open {path}: no such file or directory", Code.NOT_FOUND)


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid, whole or not at all.  Raises KataError."""
    draft = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    try:
        with open(draft, "w") as file:
            file.write(str(pid))
        os.replace(draft, path)
    except OSError as error:
        raise KataError(f"write {path}: {error.strerror}", Code.INTERNAL) from error


def _find_network(
    namespaces: Mapping[str, str], others: Sequence[Record], sandbox: str
) -> str | None:
    """Return the network namespace for a stand-in: empty for a new one, None for the host's."""
    path = namespaces.get("network")
    if path or not sandbox:
        return path
    owners = [other.pid for other in others if other.id == sandbox and other.status != "stopped"]
    return f"/proc/{owners[0]}/ns/net" if owners else ""


def _delete_task(root: str, record: Record) -> None:
    try:
        with Task(root, record.sandbox, record.id) as task:
            task.delete()
    except KataError as error:
        if error.code not in (Code.NOT_FOUND, Code.UNAVAILABLE):
            raise


def _end_shim(root: str, record: Record) -> None:
    try:
        with Task(root, record.sandbox, record.id) as task:
            task.shut_down()
    except KataError:
        pass  # it does not answer any more, or not yet, and ends when nobody asks for anything
    clean_up(root, record.id, record.folder)


def _console_size(process: dict[str, Any]) -> tuple[int, int]:
    size = process.get("consoleSize") or {}
    return int(size.get("height") or 0), int(size.get("width") or 0)


def _now() -> str:
    now = time.time_ns()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 1_000_000_000))
    return f"{stamp}.{now % 1_000_000_000:09d}Z"


def _user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
