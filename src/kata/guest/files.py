"""Small files, read and written whole, without the io module's text layer."""

from __future__ import annotations

import os

_CHUNK = 1 << 16


def read(path: str) -> str:
    """Return a file's text; bytes that are no UTF-8 are replaced.  Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _CHUNK):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "replace")


def find(path: str) -> str | None:
    """Return a file's text, or None when there is no such file."""
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def write(path: str, text: str, mode: int = 0o600) -> None:
    """Create or replace a file.  Raises OSError."""
    _write(path, text, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)


def control(path: str, text: str) -> None:
    """Write to a file of the kernel's (sysfs, procfs, cgroup).  Raises OSError."""
    _write(path, text, os.O_WRONLY | os.O_CLOEXEC, 0)


def remove(path: str) -> None:
    """Remove a file; one that is not there is no error."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def remove_folder(path: str) -> None:
    """Remove a folder of files; one that is not there is no error.  Raises OSError."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return
    for name in names:
        remove(f"{path}/{name}")
    os.rmdir(path)


def _write(path: str, text: str, flags: int, mode: int) -> None:
    fd = os.open(path, flags, mode)
    try:
        view = memoryview(text.encode())
        while view:
            view = view[os.write(fd, view) :]
    finally:
        os.close(fd)
