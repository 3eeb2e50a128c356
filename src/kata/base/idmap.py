"""Maps of users and groups, as user namespaces have them (user_namespaces(7))."""

from __future__ import annotations

import os
import time

from kata.base.errors import Code, KataError

UNSHARE = "/usr/bin/unshare"
_TIMEOUT_S = 10.0

# Of each line: the first id inside, the first outside, how many.
IdMap = tuple[tuple[int, int, int], ...]
# Of users, of groups.
IdMaps = tuple[IdMap, IdMap]
UNMAPPED: IdMaps = ((), ())


def read_maps(owner: object) -> IdMaps:
    """Return the maps of an object of an OCI specification (``linux``, or a mount)."""
    members = owner if isinstance(owner, dict) else {}
    return (_read_map(members.get("uidMappings")), _read_map(members.get("gidMappings")))


def map_id(number: int, id_map: IdMap) -> int:
    """Return the number outside of a user or group inside; unchanged where no line has it."""
    for inside, outside, size in id_map:
        if inside <= number < inside + size:
            return outside + number - inside
    return number


def write_maps(pid: int, maps: IdMaps) -> None:
    """Set the maps of a process's user namespace, once in its life.

    Raises INVALID_ARGUMENT that names the map.
    """
    for name, key, id_map in zip(("uid", "gid"), ("uidMappings", "gidMappings"), maps, strict=True):
        text = "".join(f"{inside} {outside} {size}\n" for inside, outside, size in id_map)
        try:
            fd = os.open(f"/proc/{pid}/{name}_map", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise KataError(
                f"set {key} {text.strip()!r}: {error.strerror}", Code.INVALID_ARGUMENT
            ) from error


def wait_for_namespace(pid: int, kind: str) -> None:
    """Wait until a child that runs UNSHARE has a namespace of its own.

    Raises FAILED_PRECONDITION when it ends instead, which says that it was not allowed to.
    """
    ours = os.readlink(f"/proc/self/ns/{kind}")
    end = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < end:
        try:
            if os.readlink(f"/proc/{pid}/ns/{kind}") != ours:
                return
        except OSError:
            pass  # it has ended; or there is no child yet, of which pid_for_children is
        if _has_ended(pid):
            raise KataError(
                f"make a {kind} namespace: unshare failed",
                Code.FAILED_PRECONDITION,
                "look at /proc/sys/user/max_user_namespaces",
            )
        time.sleep(0.001)
    raise KataError(f"make a {kind} namespace: not within {_TIMEOUT_S:g} s", Code.DEADLINE_EXCEEDED)


def _has_ended(pid: int) -> bool:
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return os.read(fd, 4096).rpartition(b")")[2].split()[:1] == [b"Z"]
    except ProcessLookupError:
        return True
    finally:
        os.close(fd)


def _read_map(entries: object) -> IdMap:
    return tuple(
        (int(entry["containerID"]), int(entry["hostID"]), int(entry["size"]))
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    )
