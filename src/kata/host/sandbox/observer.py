"""Read what the machine and its helpers say: console, agent log, messages of QEMU and virtiofsd.

One thread per sandbox.  The console and the agent's log go to bounded files in the state folder;
the end of every stream stays in memory, to be put into the error when something fails.
"""

from __future__ import annotations

import collections
import os
import selectors
import threading
from collections.abc import Callable

# What an error shows of a stream: enough for a kernel's panic with its call trace.
_TAIL_BYTES = 4096
# Two files of this size are kept, the current one and the one before.
_FILE_BYTES = 512 << 10
_READ_BYTES = 65536


class BoundedFile:
    """A log file that starts anew when it is full, keeping one predecessor (``.1``)."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = 0
        self._fd = self._open()

    def write(self, data: bytes) -> None:
        """Append; the file may exceed its size by one write."""
        if self._size > _FILE_BYTES:
            os.close(self._fd)
            os.replace(self._path, f"{self._path}.1")
            self._fd = self._open()
            self._size = 0
        os.write(self._fd, data)
        self._size += len(data)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self._path, flags, 0o600)


class Observer:
    """Collects streams until each has ended.  Owns the descriptors it is given."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._tails: dict[str, bytes] = {}
        self._ends: dict[str, threading.Event] = {}
        self._moved: collections.deque[tuple[str, str]] = collections.deque()
        self._wake_read, self._wake_write = os.pipe()
        self._closing = False
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="observer", daemon=True)
        self._thread.start()

    def watch(
        self, name: str, fd: int, path: str = "", on_data: Callable[[bytes], None] | None = None
    ) -> None:
        """Collect a stream: its tail, its content in ``path``, its pieces to ``on_data``."""
        self._tails[name] = b""
        self._ends[name] = threading.Event()
        file = BoundedFile(path) if path else None
        self._selector.register(fd, selectors.EVENT_READ, (name, file, on_data))
        os.write(self._wake_write, b"x")

    def keep(self, name: str, path: str) -> None:
        """Write a stream that is watched to a file from now on, beginning with its tail."""
        self._moved.append((name, path))
        os.write(self._wake_write, b"x")

    def tail(self, name: str) -> str:
        """Return the end of a stream, without control characters but line ends."""
        text = self._tails.get(name, b"").decode("utf-8", "replace").replace("\r", "")
        return "".join(c for c in text if c.isprintable() or c in "\n\t").strip()

    def wait_end(self, name: str, timeout_s: float) -> bool:
        """Wait until a stream has ended; returns whether it has."""
        end = self._ends.get(name)
        return end is None or end.wait(timeout_s)

    def close(self) -> None:
        """Stop reading and close everything; what had arrived is in the files."""
        if not self._closing:
            self._closing = True
            os.write(self._wake_write, b"x")
            self._thread.join(timeout=5.0)
            if not self._thread.is_alive():
                os.close(self._wake_read)
                os.close(self._wake_write)

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.data is None:
                    os.read(self._wake_read, 64)
                    self._move()
                else:
                    self._collect(key)
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                self._collect(key, drain=True)
        self._selector.close()

    def _move(self) -> None:
        while self._moved:
            name, path = self._moved.popleft()
            for key in list(self._selector.get_map().values()):
                if key.data is not None and key.data[0] == name:
                    file = BoundedFile(path)
                    file.write(self._tails[name])
                    if key.data[1] is not None:
                        key.data[1].close()
                    self._selector.modify(key.fd, key.events, (name, file, key.data[2]))

    def _collect(self, key: selectors.SelectorKey, *, drain: bool = False) -> None:
        name, file, on_data = key.data
        os.set_blocking(key.fd, False)
        try:
            data = os.read(key.fd, _READ_BYTES)
        except BlockingIOError:
            data = b""
            if not drain:
                return
        except OSError:
            data = b""
        if data:
            self._tails[name] = (self._tails[name] + data)[-_TAIL_BYTES:]
            if file is not None:
                file.write(data)
            if on_data is not None:
                on_data(data)
        if not data or drain:
            self._selector.unregister(key.fd)
            os.close(key.fd)
            if file is not None:
                file.close()
            self._ends[name].set()
