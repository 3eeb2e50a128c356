"""What a sandbox holds on the host, on disk, so that others can clean up after a killed shim.

``/run/kata/<id>/record.json`` is rewritten whole and atomically whenever something is acquired.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from kata.base.errors import Code, KataError
from kata.base.folders import remove_folder
from kata.base.processes import end_process
from kata.base.statefolder import ROOT

VERSION = 1


@dataclass(slots=True)
class ProcessEntry:
    """A process to end: its pid counts only together with its start time."""

    role: str
    pid: int
    start_time: int


@dataclass(slots=True)
class Record:
    """The state folder's content.

    ``owner`` is the address of the shim: sandboxes of different engines, or of different
    namespaces of one, can have the same id, and only one of them can be at a time.
    """

    sandbox_id: str
    version: int = VERSION
    owner: str = ""
    processes: list[ProcessEntry] = field(default_factory=list)
    cgroups: list[str] = field(default_factory=list)


class RecordFile:
    """The record of one sandbox, kept in step with the disk."""

    def __init__(self, sandbox_id: str) -> None:
        self.folder = state_folder(sandbox_id)
        self._lock = threading.Lock()
        self._record = Record(sandbox_id)

    def create(self, owner: str, *processes: ProcessEntry) -> None:
        """Make the state folder with its record; ALREADY_EXISTS when the sandbox has one.

        Folder and record appear at once, so a sandbox without a record is never one that lives.
        """
        self._record.owner = owner
        self._record.processes += processes
        draft = f"{ROOT}/.{os.getpid()}.{self._record.sandbox_id}"
        os.makedirs(draft, mode=0o700, exist_ok=True)
        _save(draft, self._record)
        try:
            os.rename(draft, self.folder)  # replaces an empty folder, which holds nothing
        except OSError as error:
            remove_folder(draft)
            raise KataError(
                f"create sandbox {self._record.sandbox_id}: it exists already ({self.folder})",
                Code.ALREADY_EXISTS,
            ) from error

    def add_process(self, role: str, pid: int, start_time: int) -> None:
        """Write down a process."""
        with self._lock:
            self._record.processes.append(ProcessEntry(role, pid, start_time))
            _save(self.folder, self._record)

    def add_cgroups(self, folders: Sequence[str]) -> None:
        """Write down folders of cgroups that were made."""
        with self._lock:
            self._record.cgroups += folders
            _save(self.folder, self._record)

    def remove(self) -> None:
        """Remove the state folder and the files in it (it has no folders)."""
        remove_folder(self.folder)


def state_folder(sandbox_id: str) -> str:
    """Return the state folder of a sandbox."""
    return f"{ROOT}/{sandbox_id}"


def load_record(sandbox_id: str) -> Record | None:
    """Return a sandbox's record, None when it has none (or died before it wrote one)."""
    path = f"{state_folder(sandbox_id)}/record.json"
    try:
        with open(path) as file:
            document = json.load(file)
        if document["version"] != VERSION:
            raise KataError(
                f"read {path}: version {document['version']}, this program knows {VERSION}",
                Code.FAILED_PRECONDITION,
            )
        entries = [ProcessEntry(**entry) for entry in document["processes"]]
        owner = str(document["owner"])
        cgroups = [str(folder) for folder in document["cgroups"]]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise KataError(f"read {path}: {error}", Code.DATA_LOSS) from error
    return Record(sandbox_id, VERSION, owner, entries, cgroups)


def end_recorded_processes(record: Record) -> list[str]:
    """Kill what the record names and wait for it; returns what would not go."""
    return [
        f"{entry.role} (pid {entry.pid}) does not end"
        for entry in record.processes
        if not end_process(entry.pid, entry.start_time)
    ]


def remove_drafts(sandbox_id: str) -> None:
    """Remove what shims left that were killed while they made the state folder."""
    try:
        names = os.listdir(ROOT)
    except FileNotFoundError:
        return
    for name in names:
        hidden, _, rest = name.partition(".")
        pid, _, owner = rest.partition(".")
        if not hidden and owner == sandbox_id and not os.path.exists(f"/proc/{pid}"):
            remove_folder(f"{ROOT}/{name}")


def _save(folder: str, record: Record) -> None:
    path = f"{folder}/record.json"
    with open(f"{path}.new", "w") as file:
        json.dump(asdict(record), file)
    os.replace(f"{path}.new", path)
