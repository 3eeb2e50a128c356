"""A guest's memory as a file: copied without its holes and without pages that hold nothing."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Iterator

from kata.base.errors import Code, KataError

_PAGE = mmap.PAGESIZE
_ZEROS = bytes(_PAGE)
# One call's share of a copy: small enough to stay in the processor's caches.
_CHUNK_BYTES = 1 << 20


def make_memory(size_bytes: int) -> int:
    """Return the descriptor of an empty file in memory, which goes when nobody has it open."""
    fd = os.memfd_create("kata-guest", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, size_bytes)
    except BaseException:
        os.close(fd)
        raise
    return fd


def copy_data(source_fd: int, target_fd: int) -> int:
    """Copy what is in ``source_fd`` to the same places of an empty file; returns the bytes copied.

    Raises RESOURCE_EXHAUSTED where there is no room.
    """
    return _copy(source_fd, target_fd, _find_data(source_fd))


class Copying:
    """A ``copy_data`` under way on a thread of its own; borrows the descriptors until ``join``."""

    def __init__(self, source_fd: int, target_fd: int) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(source_fd, target_fd), name="copy", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Return when all is copied; raise what ``copy_data`` raised."""
        self.join()
        if self._error is not None:
            raise self._error

    def join(self) -> None:
        """Return when the descriptors are not used any more."""
        self._thread.join()

    def _run(self, source_fd: int, target_fd: int) -> None:
        try:
            copy_data(source_fd, target_fd)
        except BaseException as error:  # noqa: BLE001  # who waits gets it
            self._error = error


def copy_pages(source_fd: int, target_fd: int) -> int:
    """Copy as ``copy_data`` does, but no page that is all zeros; slower."""
    size = os.fstat(source_fd).st_size
    with mmap.mmap(source_fd, size, prot=mmap.PROT_READ) as content:
        return _copy(source_fd, target_fd, _find_pages(content, _find_data(source_fd)))


def _copy(source_fd: int, target_fd: int, pieces: Iterator[tuple[int, int]]) -> int:
    copied = 0
    size = os.fstat(source_fd).st_size
    with mmap.mmap(source_fd, size, prot=mmap.PROT_READ) as content, memoryview(content) as view:
        for start, end in pieces:
            for at in range(start, end, _CHUNK_BYTES):
                with view[at : min(at + _CHUNK_BYTES, end)] as piece:
                    copied += _write(target_fd, piece, at)
    return copied


def _write(fd: int, piece: memoryview, at: int) -> int:
    try:
        written = os.pwrite(fd, piece, at)
    except OSError as error:
        raise KataError(f"copy memory: {error.strerror}", Code.RESOURCE_EXHAUSTED) from error
    if written != len(piece):
        raise KataError("copy memory: no space left", Code.RESOURCE_EXHAUSTED)
    return written


def _find_data(fd: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of a file that are no holes, as offsets."""
    end = 0
    while True:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole is left
                return
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, end


def _find_pages(content: mmap.mmap, parts: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of parts whose pages are not all zeros."""
    for start, end in parts:
        begun = -1
        for at in range(start, end, _PAGE):
            if content[at : at + _PAGE] == _ZEROS:
                if begun >= 0:
                    yield begun, at
                begun = -1
            elif begun < 0:
                begun = at
        if begun >= 0:
            yield begun, end
