"""Find the machine that a container shares with others, by what its engine gives.

Kubernetes' engines write it into annotations.  Podman and Docker only name the namespaces of the
container that the others join, and those are its stand-in's: its pid is in their paths, or they
lead to its network namespace.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.oci.annotations import ContainerKind, find_placement

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kata.cli.oci.record import Record

# A guest's containers have one network, one clock, and System V IPC and host name in common.
_HINT = "join only namespaces of containers of kata-runtime, or of a path for the network"


def find_sandbox(
    container_id: str,
    annotations: Mapping[str, str],
    namespaces: Mapping[str, str],
    records: Iterable[Record],
) -> str:
    """Return whose machine a container belongs into, empty for one of its own.

    Raises INVALID_ARGUMENT for namespaces that no virtual machine can join.
    """
    living = [record for record in records if record.status != "stopped"]
    placement = find_placement(container_id, annotations)
    if placement.kind is ContainerKind.CONTAINER:
        for record in living:
            if record.id == placement.sandbox_id:
                return record.sandbox
    owners = {kind: _find_owner(kind, path, living) for kind, path in namespaces.items() if path}
    joined = {kind: owner.sandbox for kind, owner in owners.items() if owner is not None}
    if len(set(joined.values())) > 1:
        raise KataError(
            f"create {container_id}: it joins namespaces of {len(set(joined.values()))} machines:"
            f" {', '.join(sorted(set(joined.values())))}",
            Code.INVALID_ARGUMENT,
            _HINT,
        )
    for kind, path in namespaces.items():
        if path and kind not in joined and kind != "network":
            raise KataError(
                f"create {container_id}: {kind} namespace {path}: a virtual machine cannot join it",
                Code.INVALID_ARGUMENT,
                _HINT,
            )
    if joined and "network" not in joined and "network" in namespaces:
        (sandbox,) = set(joined.values())
        raise KataError(
            f"create {container_id}: it shares {', '.join(sorted(joined))} with {sandbox}, but not"
            " the network, and a virtual machine has one",
            Code.INVALID_ARGUMENT,
            f"share the network as well (--network container:{sandbox[:12]})",
        )
    return next(iter(joined.values()), "")


def _find_owner(kind: str, path: str, records: Iterable[Record]) -> Record | None:
    pid = _pid_of(path)
    wanted = _identify(path) if kind == "network" else None
    for record in records:
        if pid and pid == record.pid:  # one that is just being made has none
            return record
        if wanted and wanted == _identify(f"/proc/{record.pid}/ns/net"):
            return record
    return None


def _pid_of(path: str) -> int:
    parts = path.split("/")
    is_process = len(parts) == 5 and parts[1] == "proc" and parts[3] == "ns"
    return int(parts[2]) if is_process and parts[2].isdecimal() else 0


def _identify(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
