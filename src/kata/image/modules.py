"""Kernel modules: names, dependencies, and the order in which the guest loads them.

Owned by the image builder.  A module's dependencies are read from its own ``.modinfo`` section, as
depmod(8) is not run.  Built-in modules are known from ``modules.builtin``.
"""

from __future__ import annotations

import lzma
import os
import re
import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import elf

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

STAGES = ("boot", "demand", "rare")
SIGNATURE_MARKER = b"~Module signature appended~\n"
# Types for BPF programs that look into a module.  The kernel checks them whenever it loads one,
# which costs start time under emulation.
BTF = ".BTF"
# struct module_signature of include/linux/module_signature.h: 12 bytes, the length comes last.
_SIGNATURE = struct.Struct(">8xI")
DECOMPRESS_TIMEOUT_S = 30.0
# The guest's memory must have room for the dictionary; the largest module has about this size.
_PACKING = ({"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 21},)


@dataclass(frozen=True, slots=True)
class Module:
    """A module to ship: ``stage`` says when to load it, ``depends`` what must be loaded before."""

    name: str
    stage: str
    depends: tuple[str, ...]
    data: bytes
    aliases: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        """Its file in the guest; rare ones are packed, as the guest's memory holds them all."""
        return f"{self.name}.ko{'.xz' if self.stage == 'rare' else ''}"

    def pack(self) -> bytes:
        """Return the content of that file."""
        if self.stage != "rare":
            return self.data
        return lzma.compress(self.data, check=lzma.CHECK_NONE, filters=_PACKING)


def module_name(path: str) -> str:
    """Return the name under which the kernel knows the module in this file."""
    return re.sub(r"\.ko(\.[a-z]+)?$", "", os.path.basename(path)).replace("-", "_")


def parse_builtin(text: str) -> frozenset[str]:
    """Return the names listed in a ``modules.builtin`` file."""
    return frozenset(module_name(line) for line in text.split())


def parse_wanted(text: str) -> dict[str, str]:
    """Read modules.txt: the stage of each module."""
    wanted: dict[str, str] = {}
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if words and (len(words) != 2 or words[0] not in STAGES):
            raise KataError(f"read modules.txt: bad line {line!r}", Code.INVALID_ARGUMENT)
        if words:
            wanted[words[1]] = words[0]
    return wanted


def select_modules(
    files: Mapping[str, bytes], builtin: frozenset[str], wanted: Mapping[str, str]
) -> list[Module]:
    """Return the wanted modules and what they need, each after its dependencies.

    ``files`` maps module names to file contents.  A dependency of a boot module is one too.
    Raises KataError naming a module that is neither there nor built in.
    """
    chosen: dict[str, Module] = {}

    def add(name: str, stage: str, chain: tuple[str, ...]) -> None:
        if name in builtin or name in chosen:
            return
        if name in chain:
            raise KataError(f"order kernel modules: {' -> '.join((*chain, name))} is a circle")
        if name not in files:
            needed_by = f", needed by {chain[-1]}" if chain else ""
            raise KataError(
                f"find kernel module {name}{needed_by}: not in the kernel package", Code.NOT_FOUND
            )
        data = elf.without_section(without_signature(decompress_module(files[name])), BTF)
        depends = tuple(item for item in parse_depends(data) if item not in builtin)
        for item in depends:
            add(item, stage, (*chain, name))
        chosen[name] = Module(name, stage, depends, data, parse_aliases(data))

    for stage in STAGES:
        for name in sorted(name for name, its_stage in wanted.items() if its_stage == stage):
            add(name, stage, ())
    return list(chosen.values())


def render_list(modules: Iterable[Module]) -> str:
    """Render the guest's list, a line for each module (see kata.guest.modules)."""
    lines = (
        f"{module.name} /lib/modules/{module.file_name} {','.join(module.depends) or '-'} "
        f"{module.stage} {','.join(module.aliases) or '-'}\n"
        for module in modules
    )
    return "".join(lines)


def decompress_module(data: bytes) -> bytes:
    """Return the plain module; Debian compresses them with xz since 13."""
    if data.startswith(b"\xfd7zXZ\x00"):
        return lzma.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        done = subprocess.run(
            ["zstd", "-dc"],
            input=data,
            capture_output=True,
            check=True,
            timeout=DECOMPRESS_TIMEOUT_S,
        )
        return done.stdout
    return data


def without_signature(data: bytes) -> bytes:
    """Cut an appended signature off.

    The guest's kernel does not require it, and checking it costs start time under emulation.
    """
    if not data.endswith(SIGNATURE_MARKER):
        return data
    end = len(data) - len(SIGNATURE_MARKER)
    (length,) = _SIGNATURE.unpack_from(data, end - _SIGNATURE.size)
    start = end - _SIGNATURE.size - length
    if start < 0:
        raise KataError("read kernel module: signature is longer than the file", Code.DATA_LOSS)
    return data[:start]


def parse_aliases(module: bytes) -> tuple[str, ...]:
    """Return the plain names in the ``alias=`` entries of a module's .modinfo section.

    Patterns are for the buses' devices, whose drivers the agent loads itself; but for all minor
    numbers of a major one, which the kernel asks for without a minor one if that is not known.
    """
    found = re.findall(rb"\0alias=([^\0]*)(?=\0)", module)
    plain = (re.sub(rb"^((?:block|char)-major-\d+)-\*$", rb"\1", name) for name in found)
    names = (name.decode().replace("-", "_") for name in plain if not re.search(rb"[:*?\[,]", name))
    return tuple(sorted(set(names)))


def parse_depends(module: bytes) -> tuple[str, ...]:
    """Return the names in the ``depends=`` entry of a module's .modinfo section."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    if not found:
        return ()
    return tuple(name for name in found[1].decode().replace("-", "_").split(",") if name)
