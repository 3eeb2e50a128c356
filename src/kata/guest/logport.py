"""Where the agent's log goes: never waited for, so a host that does not read costs lines only."""

from __future__ import annotations

import os


class LogSink:
    """Write lines to a descriptor without blocking; count what is dropped."""

    def __init__(self, fd: int) -> None:
        """Take ``fd``, which may be exchanged later for a better one."""
        self._fd = fd
        self._dropped = 0

    def redirect(self, fd: int) -> None:
        """Write to another descriptor from now on; takes it.  The old one stays open."""
        os.set_blocking(fd, False)
        self._fd = fd

    def write(self, line: bytes) -> None:
        """Write one line, or drop it."""
        if self._dropped:
            line = b"(%d lines dropped)\n" % self._dropped + line
        try:
            os.write(self._fd, line)
            self._dropped = 0
        except OSError:
            self._dropped += 1
