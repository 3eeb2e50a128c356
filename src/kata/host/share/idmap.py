"""Mounts that show other owners: for pods whose users are mapped.

A file of the host's user 0 is shown as the user to which the pod maps its root, and what the pod
writes arrives as the host's user 0 again (mount_setattr(2), Linux 5.12).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.base.idmap import UNMAPPED, UNSHARE, IdMap, IdMaps, wait_for_namespace, write_maps

_WAITER = "/usr/bin/cat"
# containerd's options of a root file system's mounts, FROM:TO:SIZE[,...]
_OPTIONS = ("uidmap=", "gidmap=")


@dataclass(frozen=True, slots=True)
class OwnerMaps:
    """How the owners of a mount's files are shown; without maps, as they are."""

    maps: IdMaps = UNMAPPED
    # Whether those of what is mounted below are mapped as well.
    recursive: bool = False


UNCHANGED = OwnerMaps()


def map_owners(tree_fd: int, owners: OwnerMaps, what: str) -> None:
    """Map the owners of a detached mount of ``what``; borrows it.

    Raises FAILED_PRECONDITION where a file system cannot do it.
    """
    if owners.maps == UNMAPPED:
        return
    with user_namespace(owners.maps) as users_fd:
        map_by(users_fd, tree_fd, what, recursive=owners.recursive)


def map_by(users_fd: int, tree_fd: int, what: str, *, recursive: bool = False) -> None:
    """Map the owners of a detached mount of ``what`` by a user namespace; borrows both.

    Raises FAILED_PRECONDITION where a file system cannot do it.
    """
    try:
        syscalls.map_mount(tree_fd, users_fd, recursive=recursive)
    except OSError as error:
        raise KataError(
            f"map the owners of {what}: {os.strerror(error.errno or 0)}",
            Code.FAILED_PRECONDITION,
            "its file system may not support mapped mounts: use another volume, or leave"
            " hostUsers out of the pod's spec",
        ) from error


def take_maps(options: tuple[str, ...]) -> tuple[tuple[str, ...], IdMaps]:
    """Split a mount's options into the kernel's and containerd's maps.

    Raises INVALID_ARGUMENT for a map that is none.
    """
    users, groups = (
        tuple(line for option in options if option.startswith(key) for line in _parse(option))
        for key in _OPTIONS
    )
    return tuple(option for option in options if not option.startswith(_OPTIONS)), (users, groups)


def _parse(option: str) -> IdMap:
    lines = []
    for text in option.partition("=")[2].split(","):
        parts = text.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise KataError(
                f"mount rootfs: option {option!r}: expected FROM:TO:SIZE", Code.INVALID_ARGUMENT
            )
        lines.append((int(parts[0]), int(parts[1]), int(parts[2])))
    return tuple(lines)


@contextmanager
def user_namespace(maps: IdMaps) -> Iterator[int]:
    """Make a user namespace with these maps; its descriptor lives as long as the block."""
    reading, writing = os.pipe2(os.O_CLOEXEC)  # the process ends with us, however we end
    try:
        pid = os.posix_spawn(
            UNSHARE,
            [UNSHARE, "--user", "--", _WAITER],
            {},
            file_actions=[(os.POSIX_SPAWN_DUP2, reading, 0)],
            setsigmask=(),
        )
        try:
            wait_for_namespace(pid, "user")
            write_maps(pid, maps)
            fd = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(writing)
            writing = -1
            os.waitpid(pid, 0)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    try:
        yield fd
    finally:
        os.close(fd)
