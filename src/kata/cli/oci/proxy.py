"""The user's terminal and a container's: what is typed in one is read in the other."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.oci.streams import Console

_CHUNK_BYTES = 32 << 10
_SIZE_BYTES = 8


def pass_terminal(console: Console) -> None:
    """Copy both ways until the container's end closes.

    Where standard input is a terminal it is raw meanwhile, and its size is the other's.
    """
    is_terminal = sys.stdin.isatty()
    before = termios.tcgetattr(0) if is_terminal else None
    try:
        if is_terminal:
            tty.setraw(0)
            signal.signal(signal.SIGWINCH, lambda *_: copy_size(console))
            copy_size(console)
        _copy(console.master)
    finally:
        if before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, before)


def copy_size(console: Console) -> None:
    """Give the container's terminal the size of the user's, if that is one."""
    try:
        size = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(_SIZE_BYTES))
    except OSError:
        return  # no terminal
    fcntl.ioctl(console.master, termios.TIOCSWINSZ, size)


def _copy(master: int) -> None:
    poller = select.poll()
    poller.register(master, select.POLLIN)
    poller.register(0, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            data = _read(fd)
            if fd == 0:
                if data:
                    os.write(master, data)
                else:
                    poller.unregister(0)
            elif data:
                _write_all(1, data)
            else:
                return


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, _CHUNK_BYTES)
    except OSError:
        return b""  # a master whose slave was closed fails with EIO


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
