"""Debian packages as a source of files: look up, download, read.  Nothing is installed.

Owned by the image builder; talks to apt and dpkg-deb.  Looking up needs apt's package lists, so
``apt-get update`` must have run once.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

QUERY_TIMEOUT_S = 60.0
# A kernel package is 30 MB; on a line slower than 1 Mbit/s give up.
DOWNLOAD_TIMEOUT_S = 600.0
LINK_STEPS = 8


@dataclass(frozen=True, slots=True)
class Package:
    """A package in the version that apt would install."""

    name: str
    version: str
    architecture: str
    sha256: str
    depends: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Name of the downloaded file, as apt-get writes it."""
        return f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


@dataclass(frozen=True, slots=True)
class PackageFile:
    """A file out of a package; ``target`` is set for links, and then ``data`` is empty."""

    mode: int
    data: bytes = b""
    target: str = ""


FileTree = dict[str, PackageFile]
"""Files by absolute path, with /usr merged."""


def find_packages(names: Sequence[str], suite: str = "") -> list[Package]:
    """Ask apt once for the candidate versions; raise KataError naming what it does not know."""
    wanted = [f"{name}/{suite}" for name in names] if suite else list(names)
    text = _run(["apt-cache", "show", "--no-all-versions", *wanted], QUERY_TIMEOUT_S)
    found: dict[str, Package] = {}
    for package in map(_parse_stanza, re.split(r"\n\n+", text.strip())):
        if package:
            found.setdefault(package.name, package)
    missing = [name for name in names if name not in found]
    if missing:
        raise KataError(
            f"find package {', '.join(missing)}: apt does not know it",
            Code.NOT_FOUND,
            "run apt-get update, and check the suite in /etc/apt",
        )
    return [found[name] for name in names]


def _parse_stanza(text: str) -> Package | None:
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(": ")
        if separator and not key.startswith(" "):
            fields[key] = value.strip()
    # A version that is only installed, and in no archive, cannot be downloaded: no Filename.
    if not fields.keys() >= {"Package", "Version", "Architecture", "Filename", "SHA256"}:
        return None
    depends = tuple(
        re.split(r"[ (|:]", item.strip(), maxsplit=1)[0]
        for item in fields.get("Depends", "").split(",")
        if item.strip()
    )
    return Package(
        fields["Package"], fields["Version"], fields["Architecture"], fields["SHA256"], depends
    )


def download_package(package: Package, cache: str) -> str:
    """Return the path of the package's file in the cache folder, downloaded when missing."""
    path = os.path.join(cache, package.file_name)
    if not os.path.exists(path) or _sha256(path) != package.sha256:
        os.makedirs(cache, exist_ok=True)
        command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
        _run([*command, f"{package.name}={package.version}"], DOWNLOAD_TIMEOUT_S, cache)
        if not os.path.exists(path) or _sha256(path) != package.sha256:
            raise KataError(
                f"download {package.name} {package.version}: file is missing or differs from "
                "the archive's SHA-256",
                Code.DATA_LOSS,
            )
    return path


def read_package(path: str, wanted: Callable[[str], bool]) -> FileTree:
    """Read the wanted files of a package; ``wanted`` is asked with the merged absolute path."""
    command = ["dpkg-deb", "--fsys-tarfile", path]
    files: FileTree = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    place = merged_path(member.name)
                    if wanted(place):
                        file = _read_member(archive, member, files)
                        if file:
                            files[place] = file
        except tarfile.TarError as error:
            process.kill()
            reason = process.stderr.read().decode(errors="replace").strip() or str(error)
            raise KataError(f"read package {path}: {reason}", Code.DATA_LOSS) from error
    return files


def _read_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, files: FileTree
) -> PackageFile | None:
    if member.issym():
        return PackageFile(0o777, target=member.linkname)
    if member.islnk():
        return files.get(merged_path(member.linkname))
    if not member.isfile():
        return None
    stream = archive.extractfile(member)
    assert stream
    return PackageFile(member.mode & 0o7777, stream.read())


def merged_path(name: str) -> str:
    """Return the path of a package's file on a system with merged /usr."""
    path = os.path.normpath("/" + name.lstrip("/"))
    first = path.split("/", 2)[1]
    return "/usr" + path if first in ("bin", "sbin", "lib", "lib64") else path


def resolve_file(tree: FileTree, path: str) -> PackageFile | None:
    """Follow links inside the tree; None when the path leads nowhere."""
    for _ in range(LINK_STEPS):
        file = tree.get(path)
        if file is None or not file.target:
            return file
        path = merged_path(os.path.join(os.path.dirname(path), file.target))
    return None


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(command: list[str], timeout_s: float, folder: str | None = None) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise KataError(
            f"run {command[0]}: not installed",
            Code.FAILED_PRECONDITION,
            "the guest image is built on Debian",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise KataError(
            f"run {' '.join(command)}: no end after {timeout_s:.0f} s", Code.DEADLINE_EXCEEDED
        ) from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-500:]
        raise KataError(f"run {' '.join(command)}: {reason}", Code.UNAVAILABLE)
    return done.stdout.decode(errors="replace")
