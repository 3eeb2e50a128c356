"""Kernel settings that containers ask for.

The guest has one network namespace, the pod's: its ``net.*`` are set by ``apply_network``, as crun
sets them only in a namespace of the container's own.  The others belong to namespaces that the
container's first process is in.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.oci.render import Json

_ROOT = "/proc/sys"
# Which namespace settings belong to (proc(5)); the list is runc's.
_NAMESPACES = {
    "kernel.domainname": "uts",
    "kernel.hostname": "uts",
    "kernel.msgmax": "ipc",
    "kernel.msgmnb": "ipc",
    "kernel.msgmni": "ipc",
    "kernel.sem": "ipc",
    "kernel.shmall": "ipc",
    "kernel.shmmax": "ipc",
    "kernel.shmmni": "ipc",
    "kernel.shm_rmid_forced": "ipc",
}
_PREFIXES = {"net.": "network", "fs.mqueue.": "ipc"}


def apply_network(spec: dict[str, Json]) -> None:
    """Set ``net.*`` and take it out of the spec.  Raises INVALID_ARGUMENT naming the setting."""
    linux = spec.get("linux")
    settings = linux.get("sysctl") if isinstance(linux, dict) else None
    if not isinstance(settings, dict):
        return
    for name in [name for name in settings if name.startswith(("net.", "net/"))]:
        _set(name, settings.pop(name))


def apply(settings: dict[str, str], namespaces: Iterable[str]) -> None:
    """Set what a container asks for, from its first process, which is in these ``namespaces``.

    Raises INVALID_ARGUMENT for a setting that is the whole guest's, or fails.
    """
    kinds = set(namespaces)
    for name, value in settings.items():
        find_path(name)  # which refuses what is no name
        if find_namespace(name) not in kinds:
            raise KataError(
                f"set sysctl {name}: it is not one of the container's own namespaces",
                Code.INVALID_ARGUMENT,
            )
        _set(name, value)


def find_namespace(name: str) -> str:
    """Return the kind of namespace that a setting belongs to, empty when it is everybody's."""
    dotted = name.replace("/", ".")
    for prefix, kind in _PREFIXES.items():
        if dotted.startswith(prefix):
            return kind
    return _NAMESPACES.get(dotted, "")


def _set(name: str, value: object) -> None:
    try:
        files.control(find_path(name), str(value))
    except OSError as error:
        raise KataError(f"set sysctl {name}: {error.strerror}", Code.INVALID_ARGUMENT) from error


def find_path(name: str) -> str:
    """Return a setting's file; dots separate, or slashes where a part has dots (sysctl(8))."""
    parts = name.split("/") if "/" in name else name.split(".")
    if any(part in ("", ".", "..") for part in parts):
        raise KataError(f"set sysctl {name!r}: no such setting", Code.INVALID_ARGUMENT)
    return "/".join((_ROOT, *parts))
