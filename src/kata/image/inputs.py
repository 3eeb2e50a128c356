"""What a guest image is made of, read from disk: the builder's data, and the key over all inputs.

Owned by the image builder.  The same key means the same image, so a build can be skipped.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import google.protobuf

import kata
from kata.base.errors import Code, KataError
from kata.image.modules import parse_wanted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.image.packages import Package

DATA_FOLDER = os.path.join(os.path.dirname(__file__), "data")
# The agent's half of the system; the host's stays outside of the guest.
SHIPPED = ("base", "rpc", "oci", "guest")
# What /init and modprobe run.
START_MODULES = ("kata.guest.init", "kata.guest.modprobe")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The lists in the data folder.

    ``programs`` maps paths in packages to paths in the guest, ``links`` paths there to targets.
    """

    packages: tuple[str, ...]
    programs: dict[str, str]
    links: dict[str, str]
    modules: dict[str, str]
    include: tuple[str, ...]
    exclude: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the Python code of the guest comes from: folders that hold ``kata`` and ``google``."""

    kata_root: str
    google_root: str
    protobuf_version: str


def load_recipe() -> Recipe:
    """Read the lists."""
    stdlib = _lines("stdlib.txt")
    for line in stdlib:
        if line[0] not in "+-":
            raise KataError(f"read stdlib.txt: bad line {line!r}", Code.INVALID_ARGUMENT)
    programs = {words[0]: words[-1] for words in map(str.split, _lines("programs.txt"))}
    links = _parse_links(_lines("links.txt"), frozenset(programs.values()))
    with open(os.path.join(DATA_FOLDER, "modules.txt"), encoding="utf-8") as file:
        modules = parse_wanted(file.read())
    return Recipe(
        tuple(_lines("packages.txt")),
        programs,
        links,
        modules,
        tuple(line[1:] for line in stdlib if line[0] == "+"),
        tuple(line[1:] for line in stdlib if line[0] == "-"),
    )


def _parse_links(lines: Iterable[str], programs: frozenset[str]) -> dict[str, str]:
    """Return the path of each link and its target.  Raises KataError for one to no program."""
    links: dict[str, str] = {}
    for line in lines:
        target, *names = line.split()
        if target not in programs:
            raise KataError(
                f"read links.txt: {target} is not in programs.txt", Code.INVALID_ARGUMENT
            )
        folder, _, program = target.rpartition("/")
        links |= {f"{folder}/{name}": program for name in names}
    return links


def find_sources(kata_root: str = "") -> Sources:
    """Locate the agent's code (``kata_root`` or our own package) and protobuf's C core.

    Raises KataError when there is no agent.
    """
    root = kata_root or os.path.dirname(os.path.abspath(next(iter(kata.__path__))))
    for module in START_MODULES:
        if not os.path.exists(os.path.join(root, module.replace(".", "/") + ".py")):
            raise KataError(f"find agent: no module {module} below {root}", Code.NOT_FOUND)
    spec = importlib.util.find_spec("google._upb._message")
    if spec is None or spec.origin is None:
        raise KataError("find protobuf: its C core google._upb is not there", Code.NOT_FOUND)
    google_root = os.path.dirname(os.path.dirname(os.path.dirname(spec.origin)))
    return Sources(root, google_root, google.protobuf.__version__)


def input_key(packages: Iterable[Package], sources: Sources, options: tuple[str, ...]) -> str:
    """Return a SHA-256 over everything that shapes the image."""
    digest = hashlib.sha256()
    for text in (sources.protobuf_version, *options):
        digest.update(text.encode() + b"\0")
    for package in packages:
        digest.update(f"{package.name} {package.version} {package.sha256}\0".encode())
    for root in (os.path.dirname(__file__), *shipped_folders(sources.kata_root)):
        for path in _files_below(root):
            with open(path, "rb") as file:
                digest.update(os.path.relpath(path, os.path.dirname(root)).encode() + b"\0")
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def shipped_folders(kata_root: str) -> list[str]:
    """Return the folders of our own code in the guest."""
    return [os.path.join(kata_root, "kata", name) for name in SHIPPED]


def _files_below(root: str) -> list[str]:
    return sorted(
        os.path.join(folder, name)
        for folder, _folders, names in os.walk(root)
        if not folder.endswith("__pycache__")
        for name in names
        if not name.endswith(".pyc")
    )


def _lines(name: str) -> list[str]:
    with open(os.path.join(DATA_FOLDER, name), encoding="utf-8") as file:
        stripped = (line.partition("#")[0].strip() for line in file)
        return [line for line in stripped if line]
