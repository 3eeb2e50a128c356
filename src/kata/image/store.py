"""The folder with guest images and kernels: versions side by side, plain names as links to one.

    versions/<key>/vmlinux.container, kata-containers-initrd.img, kata-containers.img, manifest.json
    vmlinux.container -> versions/<key>/vmlinux.container      (and so on)
    kernels/<key>/vmlinux-kata.container, vmlinux-kata.config, vmlinux-kata.json
    vmlinux-kata.container -> kernels/<key>/vmlinux-kata.container      (and so on)

A version appears complete, by one rename of its folder, or not at all.  Owned by the image builder;
the shim reads the plain names, and the manifest beside the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL, MANIFEST = "vmlinux.container", "manifest.json"
INITRD, IMAGE = "kata-containers-initrd.img", "kata-containers.img"
OWN_KERNEL, OWN_KERNEL_CONFIG = "vmlinux-kata.container", "vmlinux-kata.config"
OWN_KERNEL_MANIFEST = "vmlinux-kata.json"
KEY_CHARS = 12
# The one in use and the one before, to go back to.
KEEP_VERSIONS = 2
_SCRATCH_PREFIX = ".building-"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Files that belong together, in versions: ``versions`` is the subfolder that holds these."""

    folder: str
    versions: str
    names: tuple[str, ...]
    manifest: str

    @property
    def versions_folder(self) -> str:
        """The folder that holds the versions."""
        return os.path.join(self.folder, self.versions)


def image_shelf(folder: str) -> Shelf:
    """Return where guest images with Debian's kernel are."""
    return Shelf(folder, "versions", (KERNEL, INITRD, IMAGE, MANIFEST), MANIFEST)


def kernel_shelf(folder: str) -> Shelf:
    """Return where kernels are that were built from source."""
    names = (OWN_KERNEL, OWN_KERNEL_CONFIG, OWN_KERNEL_MANIFEST)
    return Shelf(folder, "kernels", names, OWN_KERNEL_MANIFEST)


@contextmanager
def locked(shelf: Shelf) -> Iterator[None]:
    """Create the folder and keep other builders out; failures of the disk become KataError."""
    try:
        os.makedirs(shelf.versions_folder, exist_ok=True)
        with open(os.path.join(shelf.versions_folder, ".lock"), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        code = (
            Code.RESOURCE_EXHAUSTED
            if error.errno in (errno.ENOSPC, errno.EDQUOT)
            else Code.PERMISSION_DENIED
            if isinstance(error, PermissionError)
            else Code.INTERNAL
        )
        raise KataError(
            f"write guest image to {shelf.folder}: {error.strerror or error}", code
        ) from error


@contextmanager
def scratch_folder(shelf: Shelf) -> Iterator[str]:
    """Give a scratch folder beside the versions, removed at the end; sweep what a crash left."""
    versions = shelf.versions_folder
    for name in os.listdir(versions):
        if name.startswith(_SCRATCH_PREFIX):
            shutil.rmtree(os.path.join(versions, name), ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=versions)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish_version(shelf: Shelf, made: str, key: str) -> None:
    """Move the finished folder ``made`` to its place, and let the plain names lead there."""
    os.chmod(made, 0o755)
    for name in shelf.names:
        with open(os.path.join(made, name), "rb") as file:
            os.fsync(file.fileno())
    place = os.path.join(shelf.versions_folder, key[:KEY_CHARS])
    if os.path.exists(place):
        shutil.rmtree(place)
    os.rename(made, place)
    select_version(shelf, key)


def select_version(shelf: Shelf, key: str) -> None:
    """Let the plain names lead to a version."""
    for name in shelf.names:
        link = os.path.join(shelf.folder, name)
        temporary = os.path.join(shelf.versions_folder, f".{name}.link")
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(f"{shelf.versions}/{key[:KEY_CHARS]}/{name}", temporary)
        os.replace(temporary, link)


def prune_versions(shelf: Shelf, keep: int = KEEP_VERSIONS) -> None:
    """Remove all but the newest versions; a running VM has read its files, or has them open."""
    versions = shelf.versions_folder
    current = os.path.dirname(os.path.realpath(os.path.join(shelf.folder, shelf.manifest)))
    others = [
        path
        for name in os.listdir(versions)
        if not name.startswith(".")
        and not os.path.samefile(path := os.path.join(versions, name), current)
    ]
    for path in sorted(others, key=os.path.getmtime)[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(path)


def write_manifest(shelf: Shelf, made: str, manifest: dict[str, object]) -> None:
    """Write the manifest into the folder of a version that is being made."""
    with open(os.path.join(made, shelf.manifest), "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
        file.write("\n")


def load_manifest(shelf: Shelf) -> dict[str, object]:
    """Return the current version's manifest; empty when it or its files are not whole."""
    try:
        with open(os.path.join(shelf.folder, shelf.manifest), encoding="utf-8") as file:
            manifest = json.load(file)
        sizes = {name: facts["size"] for name, facts in manifest["files"].items()}
        for name, size in sizes.items():
            if os.stat(os.path.join(shelf.folder, name)).st_size != size:
                return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(manifest)
