"""Children of a long-lived, threaded process: started without fork, watched by pidfd.

A child is tied to its starter twice: the kernel kills it when the starter dies (PR_SET_PDEATHSIG),
and its pid with start time can be written down, so that somebody else can end it later.
"""

from __future__ import annotations

import os
import queue
import select
import signal
import threading

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Sets the parent-death signal, then becomes the program; from util-linux, which is essential.
_TIE = ("/usr/bin/setpriv", "--pdeathsig", "KILL", "--")


class Child:
    """A running child.  Owns its pidfd; reaps it once."""

    _pidfd = -1

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.start_time = read_start_time(pid) or 0
        self._pidfd = os.pidfd_open(pid)
        self._lock = threading.Lock()
        self._status: int | None = None

    def __del__(self) -> None:
        # Not before: others wait at this number, which is readable also when it has been reaped.
        if self._pidfd >= 0:
            os.close(self._pidfd)

    def fileno(self) -> int:
        """Return the pidfd, readable when the child has ended; for select and poll."""
        return self._pidfd

    def wait(self, timeout_s: float | None = None) -> int | None:
        """Return the exit status (negative: the signal that ended it), or None after a time-out."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(None if timeout_s is None else timeout_s * 1000):
            return None
        with self._lock:
            if self._status is None:
                _, status = os.waitpid(self.pid, 0)
                self._status = os.waitstatus_to_exitcode(status)
        return self._status

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal, unless the child has been reaped."""
        with self._lock:
            if self._status is None:
                signal.pidfd_send_signal(self._pidfd, signum)


class Spawner:
    """Start children from one thread that lives as long as the process.

    PR_SET_PDEATHSIG fires when the *thread* that made the child ends, so request threads must not
    do it themselves.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="spawner", daemon=True).start()

    def spawn(
        self,
        argv: Sequence[str],
        fds: Mapping[int, int],
        environ: Mapping[str, str] | None = None,
    ) -> Child:
        """Start ``argv`` with descriptors ``fds`` (child's number -> ours, borrowed).

        Descriptors 0 to 2 are /dev/null where ``fds`` does not name them; all others are closed.
        Signals are at their defaults and unblocked.  Raises KataError when it cannot be executed.
        """
        program = argv[0]
        if not os.access(program, os.X_OK) or os.path.isdir(program):
            raise KataError(f"execute {program}: not an executable file", Code.FAILED_PRECONDITION)
        answer: queue.SimpleQueue[Child | OSError] = queue.SimpleQueue()

        def job() -> None:
            try:
                answer.put(Child(_spawn([*_TIE, *argv], fds, environ)))
            except OSError as error:
                answer.put(error)

        self._jobs.put(job)
        result = answer.get()
        if isinstance(result, OSError):
            raise KataError(f"execute {program}: {result}", Code.INTERNAL) from result
        return result

    def adopt(self, pid: int) -> None:
        """Take a process that runs to where this one's children are, if that is another place."""

    def settle(self) -> None:
        """Have children counted, from now on, that were not while they started."""

    def find_throttling(self) -> str:
        """Return why children may be slow; empty where no limit keeps them from running."""
        return ""

    def _run(self) -> None:
        while True:
            self._jobs.get()()


def _spawn(argv: Sequence[str], fds: Mapping[int, int], environ: Mapping[str, str] | None) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0)
        for number in (0, 1, 2)
        if number not in fds
    ]
    # Targets may be sources of others: move every source out of the way first.
    moved = {number: _above(fd) for number, fd in fds.items()}
    actions += [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in moved.items()]
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            dict(os.environ if environ is None else environ),
            file_actions=actions,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD),
        )
    finally:
        for fd in moved.values():
            os.close(fd)


def _above(fd: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100)


def read_start_time(pid: int) -> int | None:
    """Return when a process started (clock ticks since boot), None when there is none (proc(5)).

    One that has ended and waits for its parent, or for a slow init, is none.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def end_process(pid: int, start_time: int, timeout_s: float = 5.0) -> bool:
    """Kill a process that need not be a child, and wait until it is gone.

    Does nothing when the pid belongs to another process by now.  Returns whether it is gone.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if read_start_time(pid) != start_time:
            return True
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return True
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)


def list_children(pid: int) -> list[int]:
    """Return the children of a process; none of one that has ended."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                found += map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
