"""The bundle that an engine hands over, and the one that the shim gets: the same but for paths.

Pure but for reading.  What only the host can do is taken out for this program to do: hooks in the
runtime's namespaces, the network namespace of the stand-in.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# The containerd annotations, which the shim looks at first.
_KIND, _SANDBOX = "io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"
# Hooks of the container's namespaces, which are the guest's.
_GUEST_HOOKS = ("createContainer", "startContainer")


def load_bundle(path: str) -> tuple[str, dict[str, Any]]:
    """Return a bundle's absolute path and its spec.  Raises KataError in runc's words."""
    bundle = os.path.abspath(path or ".")
    if not os.path.isdir(bundle):
        reason = "not a directory" if os.path.exists(bundle) else "no such file or directory"
        raise KataError(f"chdir {bundle}: {reason}", Code.NOT_FOUND)
    if not os.path.exists(f"{bundle}/config.json"):
        raise KataError("JSON specification file config.json not found", Code.NOT_FOUND)
    spec = load_spec(bundle)
    for key in ("root", "process", "linux"):
        if not isinstance(spec.get(key), dict):
            raise KataError(f"read {bundle}/config.json: {key} is missing", Code.INVALID_ARGUMENT)
    return bundle, spec


def find_rootfs(bundle: str, spec: dict[str, Any]) -> str:
    """Return the absolute path of the root file system.  Raises NOT_FOUND in runc's words."""
    path = os.path.join(bundle, str(spec["root"].get("path") or ""))
    if not os.path.isdir(path):
        raise KataError(f"invalid rootfs: stat {path}: no such file or directory", Code.NOT_FOUND)
    return os.path.normpath(path)


def namespaces_of(spec: dict[str, Any]) -> dict[str, str]:
    """Return the container's namespaces: kind -> path, which is empty for a new one."""
    found: dict[str, str] = {}
    for entry in spec["linux"].get("namespaces") or []:
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise KataError(
                "read config.json.linux.namespaces: no list of objects with a type",
                Code.INVALID_ARGUMENT,
            )
        if entry["type"] in found:
            raise KataError(
                f"read config.json.linux.namespaces: {entry['type']} is there twice",
                Code.INVALID_ARGUMENT,
            )
        found[entry["type"]] = str(entry.get("path") or "")
    return found


def rewrite_spec(spec: dict[str, Any], rootfs: str, network: str, sandbox: str) -> dict[str, Any]:
    """Return the spec for the shim.

    ``network`` is the path of the namespace that the machine's links are in; ``sandbox`` is the
    container in whose machine this one shall be, empty for a machine of its own.
    """
    linux = dict(spec["linux"])
    linux["namespaces"] = [
        {**entry, "path": network} if entry["type"] == "network" and network else entry
        for entry in linux.get("namespaces") or []
    ]
    changed = {**spec, "linux": linux, "root": {**spec["root"], "path": rootfs}}
    hooks = spec.get("hooks") or {}
    changed["hooks"] = {kind: hooks[kind] for kind in _GUEST_HOOKS if hooks.get(kind)}
    if sandbox:
        annotations = {**(spec.get("annotations") or {}), _KIND: "container", _SANDBOX: sandbox}
        changed["annotations"] = annotations
    return changed


def host_hooks(spec: dict[str, Any], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """Return the hooks of some kinds in their order.  Raises INVALID_ARGUMENT."""
    found = spec.get("hooks") or {}
    if not isinstance(found, dict):
        raise KataError("read config.json.hooks: no object", Code.INVALID_ARGUMENT)
    hooks = [hook for kind in kinds for hook in found.get(kind) or []]
    for hook in hooks:
        if not isinstance(hook, dict) or not os.path.isabs(str(hook.get("path") or "")):
            raise KataError("read config.json.hooks: a path is not absolute", Code.INVALID_ARGUMENT)
    return hooks
