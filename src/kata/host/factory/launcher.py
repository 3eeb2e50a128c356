"""containerd-shim-kata-v2 as containerd executes it: hand the command to the factory if it runs.

The factory has everything loaded and forks, which takes a tenth of the time.  Without one, or when
it declines, the command runs here.  Imports nothing but what this needs.
"""

from __future__ import annotations

import os
import sys

from kata.base import fdpass
from kata.host.template.address import DONE, RUN, SOCKET

# What must be the same for the factory's process to do what this one would: the last is compared,
# the others are entered.
NAMESPACES = ("mnt", "net", "pid")
_HANDED_OVER = ("start", "delete")


def main() -> None:
    """Run the command line; does not return where a daemon was made."""
    status = hand_over(sys.argv) if sys.argv[-1] in _HANDED_OVER else None
    if status is None:
        from kata.host.shim.main import main as run

        run()
    else:
        # At once: killed from now on, it would be a failure of what is done.
        os._exit(status)


def hand_over(argv: list[str]) -> int | None:
    """Let the factory do it; returns the exit status, None when it was not done."""
    try:
        sock = fdpass.connect(SOCKET)
    except OSError:
        return None
    fds: list[int] = []
    try:
        paths = (".", "/", *(f"/proc/self/ns/{name}" for name in NAMESPACES))
        fds.extend(os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths)
        fdpass.send(sock, [RUN, _own_code(), _pack(argv), _pack(_environment())], [0, *fds])
        parts, _ = fdpass.receive(sock)
        if len(parts) != 4 or parts[0] != DONE:
            return None
        os.write(1, parts[2])
        os.write(2, parts[3])
        try:
            fdpass.send(sock, [DONE])  # else the fork takes it back
        except OSError:
            pass  # it was killed; what it started is told all the same
        return int(parts[1])
    except (OSError, ValueError):
        return None
    finally:
        sock.close()
        for fd in fds:
            os.close(fd)


def _own_code() -> bytes:
    return os.fsencode(os.path.realpath(__file__))


def _environment() -> list[str]:
    return [f"{key}={value}" for key, value in os.environ.items()]


def _pack(words: list[str]) -> bytes:
    return b"\0".join(os.fsencode(word) for word in words)
