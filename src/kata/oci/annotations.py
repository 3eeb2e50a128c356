"""What engines tell a runtime through annotations: sandbox or container, and whose."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from kata.base.errors import Code, KataError

# Key of the container's type, its values for a sandbox and a container, and the key of the
# sandbox's id; the first key that is present decides (containerd, CRI-O, dockershim).
_CRI_O = "io.kubernetes.cri-o.ContainerType"
_ENGINES = (
    ("io.kubernetes.cri.container-type", "sandbox", "io.kubernetes.cri.sandbox-id"),
    (_CRI_O, "sandbox", "io.kubernetes.cri-o.SandboxID"),
    ("io.kubernetes.docker.type", "podsandbox", "io.kubernetes.sandbox.id"),
)


# Keys of a pod's uid, name and namespace, by engine (containerd, CRI-O).
_IDENTITIES = (
    tuple(f"io.kubernetes.cri.sandbox-{key}" for key in ("uid", "name", "namespace")),
    ("io.kubernetes.pod.uid", "io.kubernetes.pod.name", "io.kubernetes.pod.namespace"),
)


class ContainerKind(enum.Enum):
    """What a create request is for."""

    SINGLE = "single"  # a lone container with a machine of its own
    SANDBOX = "sandbox"  # the pod itself
    CONTAINER = "container"  # one more container in a pod's machine


@dataclass(frozen=True, slots=True)
class Placement:
    """Which sandbox a container belongs to."""

    kind: ContainerKind
    sandbox_id: str


def find_placement(container_id: str, annotations: Mapping[str, str]) -> Placement:
    """Decide from the annotations; none of them means a lone container."""
    for type_key, sandbox_value, id_key in _ENGINES:
        value = annotations.get(type_key)
        if value is None:
            continue
        if value == sandbox_value:
            return Placement(ContainerKind.SANDBOX, container_id)
        if value != "container":
            raise KataError(
                f"read annotation {type_key}: unknown value {value!r}", Code.INVALID_ARGUMENT
            )
        sandbox_id = annotations.get(id_key, "")
        if not sandbox_id:
            raise KataError(f"read annotation {id_key}: it is missing", Code.INVALID_ARGUMENT)
        return Placement(ContainerKind.CONTAINER, sandbox_id)
    return Placement(ContainerKind.SINGLE, container_id)


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """How Kubernetes calls a pod; empty where it has nothing to do with it."""

    uid: str = ""
    name: str = ""
    namespace: str = ""


def find_identity(annotations: Mapping[str, str]) -> PodIdentity:
    """Read what the engine tells of a pod."""
    for keys in _IDENTITIES:
        if any(key in annotations for key in keys):
            return PodIdentity(*(annotations.get(key, "") for key in keys))
    return PodIdentity()


def is_cri_o(annotations: Mapping[str, str]) -> bool:
    """Return whether CRI-O made a container."""
    return _CRI_O in annotations
