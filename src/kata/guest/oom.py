"""Out-of-memory kills in containers: noticed by the kernel's notification, told to the host."""

from __future__ import annotations

import os
import select
import threading

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.log import Logger

# Nobody may be asking; the oldest events are then of no use.
MAX_QUEUED = 64


class OomWatcher:
    """Watch memory.events of every container's cgroup, on one thread, started when needed."""

    def __init__(self, log: Logger) -> None:
        self._log = log
        self._condition = threading.Condition()
        self._events: list[str] = []
        self._watched: dict[int, tuple[str, int]] = {}
        self._epoll: select.epoll | None = None
        self._closed = False

    def watch(self, container_id: str, cgroup: str) -> None:
        """Begin to watch a container; one without a cgroup of version 2 is not watched."""
        if not cgroup:
            return
        try:
            fd = os.open(f"{cgroup}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # the memory controller is off
        with self._condition:
            self._watched[fd] = (container_id, count_kills(os.pread(fd, 4096, 0)))
            if self._epoll is None:
                self._epoll = select.epoll()
                threading.Thread(target=self._run, name="oom", daemon=True).start()
            # kernfs raises POLLPRI at each change, and POLLERR with it.
            self._epoll.register(fd, select.EPOLLPRI | select.EPOLLET)

    def check(self, container_id: str) -> None:
        """Look at once, so that a kill is known before the end that it caused is told."""
        with self._condition:
            for fd, (known, _) in list(self._watched.items()):
                if known == container_id:
                    self._look(fd)

    def forget(self, container_id: str) -> None:
        """Stop watching a container.  May be called twice."""
        with self._condition:
            for fd, (known, _) in list(self._watched.items()):
                if known == container_id:
                    self._drop(fd)

    def next_event(self) -> str:
        """Wait for the next kill and return its container.  Raises UNAVAILABLE at the end."""
        with self._condition:
            while not self._events and not self._closed:
                self._condition.wait()
            if self._closed:
                raise KataError("get oom event: the sandbox is gone", Code.UNAVAILABLE)
            return self._events.pop(0)

    def close(self) -> None:
        """Give up: waiters get an error."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()

    def _run(self) -> None:
        epoll = self._epoll
        while epoll is not None:
            for fd, _ in epoll.poll():
                with self._condition:
                    self._look(fd)

    def _look(self, fd: int) -> None:
        if fd not in self._watched:
            return
        container_id, before = self._watched[fd]
        try:
            now = count_kills(os.pread(fd, 4096, 0))
        except OSError:  # ENODEV: the cgroup is gone
            self._drop(fd)
            return
        if now > before:
            self._watched[fd] = (container_id, now)
            self._events = [*self._events, container_id][-MAX_QUEUED:]
            self._condition.notify()
            self._log.info("out of memory", container=container_id, kills=now)

    def _drop(self, fd: int) -> None:
        del self._watched[fd]
        if self._epoll is not None:
            self._epoll.unregister(fd)
        os.close(fd)


def count_kills(text: bytes) -> int:
    """Return the number of killed processes that a memory.events file tells."""
    for line in text.splitlines():
        key, _, value = line.partition(b" ")
        if key == b"oom_kill":
            return int(value)
    return 0
