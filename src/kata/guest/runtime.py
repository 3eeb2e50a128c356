"""What the agent asks of a container runtime, whichever it is."""

from __future__ import annotations

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.exits import Exit
    from kata.guest.stdio import Stdio
    from kata.oci.render import Json


class Runtime:
    """Create and change containers.  Each call may run at the same time as others.

    A failure is a KataError that carries the runtime's own words; ``create`` and ``execute`` then
    leave no process behind.  Descriptors are borrowed.
    """

    def create(
        self, container_id: str, bundle: str, spec: dict[str, Json], stdio: Stdio, exit_: Exit
    ) -> int:
        """Create a container whose first process waits for ``start``; return that process's pid.

        ``bundle`` is a folder for files of the container's.  ``exit_`` is told the process's end.
        """
        raise _unsupported("create")

    def adopt(self, container_id: str, pid: int, spec: dict[str, Json]) -> None:
        """Learn of a container that was created: its first process, and its specification."""

    def start(self, container_id: str) -> None:
        """Let a created container's first process run."""
        raise _unsupported("start")

    def execute(
        self, container_id: str, process: dict[str, Json], scratch: str, stdio: Stdio, exit_: Exit
    ) -> int:
        """Start one more process and return its pid.

        ``process`` is the specification's object; ``scratch`` a path prefix for files of this call.
        """
        raise _unsupported("exec")

    def kill_all(self, container_id: str) -> None:
        """Send SIGKILL to every process of the container."""
        raise _unsupported("kill")

    def pause(self, container_id: str) -> None:
        """Stop the container's processes; returns when they stand still."""
        raise _unsupported("pause")

    def resume(self, container_id: str) -> None:
        """Let a paused container go on."""
        raise _unsupported("resume")

    def update(self, container_id: str, resources: dict[str, Json], scratch: str) -> None:
        """Change the container's limits; ``resources`` is the specification's object."""
        raise _unsupported("update")

    def delete(self, container_id: str) -> None:
        """Remove the container, killing what still runs; one that is not there is no error."""
        raise _unsupported("delete")


def _unsupported(what: str) -> KataError:
    return KataError(f"{what} container: this runtime cannot", Code.UNIMPLEMENTED)
