"""What is known of a container between two commands: ``ROOT/ID/state.json`` and marks beside it.

A container's folder is also the bundle that its shim sees.  Whether it runs is not written down:
its stand-in lives or does not.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.base.ids import check_id
from kata.base.processes import read_start_time
from kata.base.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VERSION = 1
NAME = "state.json"
LINK = "link"
_CREATING, _STARTED, _PAUSED = "creating", "started", "paused"
# What runc says, which engines look for.
_MISSING = "container does not exist"


@dataclass(frozen=True)
class Record:
    """A container that was created.  ``folder`` is where its record is, and not part of it."""

    id: str
    folder: str
    bundle: str
    rootfs: str
    # Whose machine it is in: its own id, or another container's.
    sandbox: str
    created: str
    owner: str
    annotations: dict[str, str]
    # Folders of the host's cgroups that are made for it.
    cgroups: list[str]
    pid: int = 0
    start_time: int = 0
    version: int = VERSION

    @property
    def status(self) -> str:
        """Return the container's state in the words of the specification, and ``paused``."""
        if not self.pid or read_start_time(self.pid) != self.start_time:
            return "stopped" if self.pid else "creating"
        if os.path.exists(f"{self.folder}/{_CREATING}"):
            return "creating"
        if os.path.exists(f"{self.folder}/{_PAUSED}"):
            return "paused"
        return "running" if os.path.exists(f"{self.folder}/{_STARTED}") else "created"

    @property
    def link(self) -> str:
        """Return where its stand-in listens."""
        return f"{self.folder}/{LINK}"

    def with_stand_in(self, pid: int, start_time: int) -> Record:
        """Return the record with its stand-in."""
        return Record(**{**vars(self), "pid": pid, "start_time": start_time})

    def mark_creating(self) -> None:
        """Note that it cannot be started yet, although its stand-in lives."""
        self._mark(_CREATING)

    def mark_created(self) -> None:
        """Note that it can be started."""
        self._unmark(_CREATING)

    def mark_started(self) -> None:
        """Note that its process was started."""
        self._mark(_STARTED)

    def mark_unstarted(self) -> None:
        """Note that its process was not started after all."""
        self._unmark(_STARTED)

    def mark_paused(self) -> None:
        """Note that it is paused."""
        self._mark(_PAUSED)

    def mark_resumed(self) -> None:
        """Note that it is not paused any more."""
        self._unmark(_PAUSED)

    def _mark(self, name: str) -> None:
        open(f"{self.folder}/{name}", "w").close()

    def _unmark(self, name: str) -> None:
        try:
            os.unlink(f"{self.folder}/{name}")
        except FileNotFoundError:
            pass


def save_record(record: Record) -> None:
    """Write a record, whole or not at all."""
    import json

    document = {key: value for key, value in vars(record).items() if key != "folder"}
    path = f"{record.folder}/{NAME}"
    with open(f"{path}.new", "w") as file:
        json.dump(document, file)
    os.replace(f"{path}.new", path)


def load_record(root: str, container_id: str) -> Record:
    """Return a container's record.

    Raises NOT_FOUND in runc's words; FAILED_PRECONDITION for one that another version has written.
    """
    import json

    folder = folder_of(root, container_id)
    try:
        with open(f"{folder}/{NAME}") as file:
            document = json.load(file)
        if document["version"] != VERSION:
            raise KataError(
                f"read {folder}/{NAME}: version {document['version']}, this program knows"
                f" {VERSION}",
                Code.FAILED_PRECONDITION,
            )
        return Record(folder=folder, **document)
    except (FileNotFoundError, NotADirectoryError):
        raise KataError(_MISSING, Code.NOT_FOUND) from None
    except (ValueError, KeyError, TypeError) as error:
        raise KataError(f"read {folder}/{NAME}: {error}", Code.DATA_LOSS) from error


def list_records(root: str) -> Iterator[Record]:
    """Return all containers below ``root`` in the order of their names."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        if os.path.exists(f"{root}/{name}/{NAME}"):
            try:
                yield load_record(root, name)
            except KataError as error:
                if error.code != Code.NOT_FOUND:  # deleted meanwhile
                    raise


def make_folder(root: str, container_id: str) -> str:
    """Make a container's folder.  Raises ALREADY_EXISTS in runc's words."""
    folder = folder_of(root, container_id)
    try:
        os.makedirs(root, mode=0o711, exist_ok=True)
        os.mkdir(folder, 0o700)  # the spec in it has the environment, with its secrets
    except FileExistsError:
        raise KataError("container with given ID already exists", Code.ALREADY_EXISTS) from None
    except OSError as error:
        raise KataError(f"make {folder}: {error.strerror}", Code.FAILED_PRECONDITION) from error
    return folder


def folder_of(root: str, container_id: str) -> str:
    """Return a container's folder.  Raises INVALID_ARGUMENT for what cannot be an id."""
    if not container_id:
        raise KataError("container id cannot be empty", Code.INVALID_ARGUMENT)
    return os.path.join(root, check_id("container", container_id))
