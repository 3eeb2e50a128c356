"""Kernel modules, by the list that the image builder wrote.

A line of the list is ``name path dependencies stage aliases``.  The stage is ``boot`` (needed to
reach the host), ``demand`` (loaded when something needs it) or ``rare`` (the same, but packed);
dependencies and aliases, the names under which the kernel asks for a module, are joined by commas,
or ``-``.  A guest whose kernel has everything built in has no use for a list.
"""

from __future__ import annotations

import os
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.guest import files

LIST_FILE = "/usr/lib/kata/modules.list"
# Only a kernel that can load modules has it.
LOADED_FILE = "/proc/modules"
_PACKED = ".xz"


class Modules:
    """Load each module once, its dependencies first."""

    def __init__(self, list_file: str = LIST_FILE, loaded_file: str = LOADED_FILE) -> None:
        self._lock = threading.Lock()
        self._can_load = os.path.exists(loaded_file)
        self._entries = parse_list(files.find(list_file) or "") if self._can_load else {}
        self._loaded: set[str] = set()

    def load_boot(self) -> None:
        """Load the modules without which the host cannot be reached.  Raises OSError."""
        with self._lock:
            for name, entry in self._entries.items():
                if entry.stage == "boot":
                    self._load(name, "")

    def load(self, name: str) -> None:
        """Load a module of the list; one that the list lacks is taken to be built in."""
        with self._lock:
            self._load(_plain(name), "")

    def resolve(self, name: str) -> str:
        """Return the name of the module that has ``name`` or has it for an alias."""
        plain = _plain(name)
        return next(
            (known for known, entry in self._entries.items() if plain in entry.aliases), plain
        )

    def probe(self, name: str, parameters: str) -> None:
        """Load a module that the host asks for.  Raises NOT_FOUND for one that does not exist.

        Of a kernel without modules it is not known what it has built in.  Raises
        FAILED_PRECONDITION there for parameters, which cannot be set any more.
        """
        if not self._can_load:
            if parameters:
                raise KataError(
                    f"load kernel module {name} with {parameters!r}: the kernel has no modules",
                    Code.FAILED_PRECONDITION,
                    f"add {name}.PARAMETER=VALUE to kernel_params in [hypervisor.qemu]",
                )
            return
        with self._lock:
            plain = _plain(name)
            if plain in self._entries:
                self._load(plain, parameters)
            elif not os.path.isdir(f"/sys/module/{plain}"):
                raise KataError(
                    f"load kernel module {name}: the guest image lacks it", Code.NOT_FOUND
                )

    def _load(self, name: str, parameters: str) -> None:
        entry = self._entries.get(name)
        if entry is None or name in self._loaded:
            return
        self._loaded.add(name)
        for dependency in entry.dependencies:
            self._load(dependency, "")
        if entry.path.endswith(_PACKED) and os.path.isdir(f"/sys/module/{name}"):
            return  # loaded by another program
        fd = _open(entry.path)
        try:
            syscalls.finit_module(fd, parameters)
        except FileExistsError:
            pass  # built in, or loaded by the kernel itself
        finally:
            os.close(fd)


class Entry:
    """One line of the list."""

    __slots__ = ("aliases", "dependencies", "path", "stage")

    def __init__(self, path: str, dependencies: list[str], stage: str, aliases: list[str]) -> None:
        self.path = path
        self.dependencies = dependencies
        self.stage = stage
        self.aliases = aliases


def parse_list(text: str) -> dict[str, Entry]:
    """Parse the list; the order of the lines is kept.  Raises ValueError for a broken line."""
    entries = {}
    for line in text.splitlines():
        name, path, dependencies, stage, aliases = line.split()
        entries[_plain(name)] = Entry(path, _names(dependencies), stage, _names(aliases))
    return entries


def _open(path: str) -> int:
    """Return a descriptor of a module's file, of an unpacked copy where that is packed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if not path.endswith(_PACKED):
        return fd
    import _lzma

    try:
        data = _lzma.LZMADecompressor().decompress(os.pread(fd, os.fstat(fd).st_size, 0))
    finally:
        os.close(fd)
    fd = os.memfd_create(os.path.basename(path), os.MFD_CLOEXEC)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    return fd


def _names(field: str) -> list[str]:
    return [] if field == "-" else [_plain(item) for item in field.split(",")]


def _plain(name: str) -> str:
    return name.replace("-", "_")
