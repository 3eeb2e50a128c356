"""The folder with guest images: versions side by side, plain names as links to the current one.

    versions/<key>/vmlinux.container, kata-containers-initrd.img, manifest.json
    vmlinux.container -> versions/<key>/vmlinux.container      (and so on)

A version appears complete, by one rename of its folder, or not at all.  Owned by the image builder;
the shim reads the plain names.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError

if TYPE_CHECKING:
    from collections.abc import Iterator

KERNEL, INITRD, MANIFEST = "vmlinux.container", "kata-containers-initrd.img", "manifest.json"
NAMES = (KERNEL, INITRD, MANIFEST)
VERSIONS = "versions"
KEY_CHARS = 12
# The one in use and the one before, to go back to.
KEEP_VERSIONS = 2
_SCRATCH_PREFIX = ".building-"


@contextmanager
def locked_store(folder: str) -> Iterator[None]:
    """Create the folder and keep other builders out; failures of the disk become KataError."""
    try:
        os.makedirs(os.path.join(folder, VERSIONS), exist_ok=True)
        with open(os.path.join(folder, VERSIONS, ".lock"), "wb") as lock:
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
            f"write guest image to {folder}: {error.strerror or error}", code
        ) from error


@contextmanager
def scratch_folder(folder: str) -> Iterator[str]:
    """Give a scratch folder beside the versions, removed at the end; sweep what a crash left."""
    versions = os.path.join(folder, VERSIONS)
    for name in os.listdir(versions):
        if name.startswith(_SCRATCH_PREFIX):
            shutil.rmtree(os.path.join(versions, name), ignore_errors=True)
    scratch = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=versions)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def publish_version(folder: str, made: str, key: str) -> None:
    """Move the finished folder ``made`` to its place, and let the plain names lead there."""
    os.chmod(made, 0o755)
    for name in NAMES:
        with open(os.path.join(made, name), "rb") as file:
            os.fsync(file.fileno())
    place = os.path.join(folder, VERSIONS, key[:KEY_CHARS])
    if os.path.exists(place):
        shutil.rmtree(place)
    os.rename(made, place)
    select_version(folder, key)


def select_version(folder: str, key: str) -> None:
    """Let the plain names lead to a version."""
    for name in NAMES:
        link = os.path.join(folder, name)
        temporary = os.path.join(folder, VERSIONS, f".{name}.link")
        if os.path.lexists(temporary):
            os.unlink(temporary)
        os.symlink(f"{VERSIONS}/{key[:KEY_CHARS]}/{name}", temporary)
        os.replace(temporary, link)


def prune_versions(folder: str, keep: int = KEEP_VERSIONS) -> None:
    """Remove all but the newest versions; a running VM has read its files already."""
    versions = os.path.join(folder, VERSIONS)
    current = os.path.dirname(os.path.realpath(os.path.join(folder, MANIFEST)))
    others = [
        path
        for name in os.listdir(versions)
        if not name.startswith(".") and (path := os.path.join(versions, name)) != current
    ]
    for path in sorted(others, key=os.path.getmtime)[: max(0, len(others) - keep + 1)]:
        shutil.rmtree(path)


def load_manifest(folder: str) -> dict[str, object]:
    """Return the current version's manifest; empty when it or its files are not whole."""
    try:
        with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
            manifest = json.load(file)
        sizes = {name: facts["size"] for name, facts in manifest["files"].items()}
        for name, size in sizes.items():
            if os.stat(os.path.join(folder, name)).st_size != size:
                return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return dict(manifest)
