"""Volumes that a storage driver gives to a sandbox as disks, past the host's file systems.

The driver says (``kata-runtime direct-volume add``) what stands behind a volume's path; a container
that mounts this path then gets the disk, which the guest mounts.  The notes are upstream's:
``ROOT/<path in base64url>/mountInfo.json``, beside files named after the sandboxes that use it.
"""

from __future__ import annotations

import binascii
import json
import os
import shutil
from dataclasses import dataclass
from typing import Any

from kata.base.errors import Code, KataError

ROOT = "/run/kata-containers/shared/direct-volumes"
_FILE = "mountInfo.json"
_NAME_MAX = 255
_OTHERS_WRITE = 0o022
# Upstream's two names for a disk with a file system.
_KINDS = ("block", "directvol")
_POLICIES = ("", "Always", "OnRootMismatch")
_FS_GROUP, _POLICY = "fsGroup", "fsGroupChangePolicy"


@dataclass(frozen=True, slots=True)
class DirectVolume:
    """What a volume is.  ``device`` is a block device of the host or a file that is a disk."""

    device: str
    fstype: str
    options: tuple[str, ...] = ()
    # Whose the files become: -1 nobody's; and whether only where the root is another's.
    fs_group: int = -1
    on_root_mismatch: bool = False


def parse_volume(text: str) -> DirectVolume:
    """Read upstream's JSON: volume-type, device, fstype, metadata, options.

    Raises INVALID_ARGUMENT, or UNIMPLEMENTED for a kind of volume that is not known.
    """
    try:
        document = json.loads(text)
    except ValueError as error:
        raise _wrong(f"invalid JSON: {error}") from error
    if not isinstance(document, dict):
        raise _wrong("it is no object")
    kind = _get_text(document, "volume-type")
    if kind not in _KINDS:
        raise KataError(
            f"read mount info: volume-type {kind!r} is not supported", Code.UNIMPLEMENTED
        )
    device, fstype = _get_text(document, "device"), _get_text(document, "fstype")
    if not os.path.isabs(device):
        raise _wrong(f"device {device!r} is no absolute path")
    options = document.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise _wrong(f"options {options!r} are no list of texts")
    group, on_root_mismatch = _parse_metadata(document.get("metadata") or {})
    return DirectVolume(device, fstype, tuple(options), group, on_root_mismatch)


def add(path: str, text: str, root: str = ROOT) -> None:
    """Note what stands behind a volume's path; what was noted before is replaced."""
    parse_volume(text)
    folder = _folder(path, root)
    mask = os.umask(0o022)  # of the folders above it as well
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
    finally:
        os.umask(mask)
    with open(f"{folder}/{_FILE}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{folder}/{_FILE}.new", f"{folder}/{_FILE}")


def remove(path: str, root: str = ROOT) -> None:
    """Forget a volume; one that is not known is no error.  Who uses it keeps it."""
    shutil.rmtree(_folder(path, root), ignore_errors=True)


def find(path: str, root: str = ROOT) -> DirectVolume | None:
    """Return what stands behind a path, None for a path of the host's.

    Raises as ``add``, and PERMISSION_DENIED for a note that others than root can write.
    """
    if not os.path.isabs(path) or len(_encode(path)) > _NAME_MAX:
        return None
    try:
        with open(f"{root}/{_encode(path)}/{_FILE}", "rb") as file:
            facts = os.fstat(file.fileno())
            if facts.st_uid != os.geteuid() or facts.st_mode & _OTHERS_WRITE:
                raise KataError(f"read {file.name}: others can write it", Code.PERMISSION_DENIED)
            return parse_volume(file.read().decode())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise _wrong(str(error)) from error


def note_user(path: str, sandbox_id: str, root: str = ROOT) -> None:
    """Note that a sandbox uses a volume."""
    try:
        open(f"{root}/{_encode(path)}/{sandbox_id}", "w").close()
    except FileNotFoundError:
        pass  # it has just been removed


def drop_user(path: str, sandbox_id: str, root: str = ROOT) -> None:
    """Note that a sandbox uses a volume no more."""
    try:
        os.unlink(f"{root}/{_encode(path)}/{sandbox_id}")
    except FileNotFoundError:
        pass


def drop_all(sandbox_id: str, root: str = ROOT) -> None:
    """Note that a sandbox uses no volume any more."""
    try:
        names = os.listdir(root)
    except FileNotFoundError:
        return
    for name in names:
        try:
            os.unlink(f"{root}/{name}/{sandbox_id}")
        except (FileNotFoundError, NotADirectoryError):
            pass


def get_user(path: str, root: str = ROOT) -> str:
    """Return the sandbox that uses a volume.  Raises NOT_FOUND, FAILED_PRECONDITION without one."""
    try:
        names = os.listdir(_folder(path, root))
    except FileNotFoundError as error:
        raise KataError(f"find volume {path}: it was not added", Code.NOT_FOUND) from error
    users = sorted(name for name in names if not name.startswith(_FILE))
    if not users:
        raise KataError(f"find volume {path}: no sandbox uses it", Code.FAILED_PRECONDITION)
    return users[0]


def _parse_metadata(metadata: Any) -> tuple[int, bool]:
    if not isinstance(metadata, dict):
        raise _wrong(f"metadata {metadata!r} is no object")
    for key in metadata:
        if key not in (_FS_GROUP, _POLICY):
            raise KataError(f"read mount info: metadata {key} is not supported", Code.UNIMPLEMENTED)
    group, policy = str(metadata.get(_FS_GROUP, "")), str(metadata.get(_POLICY, ""))
    if group and not group.isdecimal():
        raise _wrong(f"{_FS_GROUP} {group!r} is no number")
    if policy not in _POLICIES:
        raise _wrong(f"{_POLICY} {policy!r} is not Always or OnRootMismatch")
    return int(group or -1), policy == "OnRootMismatch"


def _get_text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str) or not value:
        raise _wrong(f"{key} is missing")
    return value


def _folder(path: str, root: str) -> str:
    if not os.path.isabs(path):
        raise KataError(f"find volume {path!r}: no absolute path", Code.INVALID_ARGUMENT)
    name = _encode(path)
    if len(name) > _NAME_MAX:
        raise KataError(f"find volume {path}: the path is too long", Code.INVALID_ARGUMENT)
    return f"{root}/{name}"


def _encode(path: str) -> str:
    """Return a path as upstream spells it in a file's name: base64url with padding."""
    encoded = binascii.b2a_base64(os.fsencode(path), newline=False).decode()
    return encoded.replace("+", "-").replace("/", "_")


def _wrong(reason: str) -> KataError:
    return KataError(f"read mount info: {reason}", Code.INVALID_ARGUMENT)
