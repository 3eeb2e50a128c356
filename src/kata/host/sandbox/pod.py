"""What a pod asks of its machine as a whole, read from its sandbox container's spec.  Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kata.base.errors import Code, KataError
from kata.base.idmap import UNMAPPED, read_maps
from kata.host.resource.sizing import Limits, read_limits
from kata.oci.annotations import PodIdentity, find_identity
from kata.oci.bundle import annotations_of, check_sysctls

_HINT = "run it with another runtime class, or leave {field} out of the pod's spec"
# Namespace type -> (the pod's field that leaves it out, what the pod would have joined).
_OWN_NAMESPACES = {
    "network": ("hostNetwork", "network"),
    "pid": ("hostPID", "processes"),
    "ipc": ("hostIPC", "System V and POSIX IPC"),
}


@dataclass(frozen=True, slots=True)
class PodPlan:
    """The machine-wide part of a spec."""

    hostname: str = ""
    # Path of the network namespace that the engine has made for the pod; empty: there is none.
    netns_path: str = ""
    # Kernel settings of the pod, for every container in it.
    sysctls: dict[str, str] = field(default_factory=dict)
    # What its containers may use together.
    limits: Limits = field(default_factory=Limits)
    # The host's cgroup that the engine has chosen (OCI: linux.cgroupsPath); empty: none.
    cgroup_path: str = ""
    identity: PodIdentity = field(default_factory=PodIdentity)


def plan_pod(sandbox_id: str, spec: dict[str, Any]) -> PodPlan:
    """Read what concerns the machine.

    Raises INVALID_ARGUMENT for namespaces that no guest can join.
    """
    linux = spec.get("linux") or {}
    namespaces = {
        str(entry.get("type")): str(entry.get("path") or "")
        for entry in linux.get("namespaces") or []
    }
    for kind, (key, what) in _OWN_NAMESPACES.items():
        if kind not in namespaces:
            raise KataError(
                f"create sandbox {sandbox_id}: {key}: a virtual machine cannot share the host's"
                f" {what}",
                Code.INVALID_ARGUMENT,
                _HINT.format(field=key),
            )
    if namespaces.get("user") and UNMAPPED[0] in read_maps(linux):
        raise KataError(
            f"create sandbox {sandbox_id}: hostUsers: a virtual machine cannot join the user"
            f" namespace {namespaces['user']}, and linux.uidMappings and gidMappings do not tell"
            " how to make one like it",
            Code.INVALID_ARGUMENT,
            _HINT.format(field="hostUsers"),
        )
    _check_root(sandbox_id, linux)
    check_sysctls(spec)
    return PodPlan(
        hostname=str(spec.get("hostname") or ""),
        netns_path=namespaces["network"],
        sysctls=dict(linux.get("sysctl") or {}),
        limits=read_limits(spec, annotations_of(spec)),
        cgroup_path=str(linux.get("cgroupsPath") or ""),
        identity=find_identity(annotations_of(spec)),
    )


def _check_root(sandbox_id: str, linux: dict[str, Any]) -> None:
    """Raise for a map of users that leaves out root, whom a container's set-up runs as."""
    for key, lines in zip(("uidMappings", "gidMappings"), read_maps(linux), strict=True):
        if lines and all(inside > 0 for inside, _, _ in lines):
            raise KataError(
                f"create sandbox {sandbox_id}: linux.{key}: id 0 of the pod is not mapped",
                Code.INVALID_ARGUMENT,
                "map it to an id of the host",
            )
