"""Kernel settings that pods and containers ask for.

The guest has one network namespace, the pod's: its ``net.*`` are set by ``apply_network``, as crun
sets them only in a namespace of the container's own.  Settings that belong to no namespace are the
whole guest's, set by ``apply_machine``.  The others belong to namespaces that the container's first
process is in.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.base.sysctls import find_namespace, find_path
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kata.oci.render import Json


def apply_machine(settings: Mapping[str, str]) -> None:
    """Set what concerns the whole guest.  Raises INVALID_ARGUMENT naming the setting."""
    for name, value in settings.items():
        _set(name, value)


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


def _set(name: str, value: object) -> None:
    try:
        files.control(find_path(name), str(value))
    except OSError as error:
        raise KataError(f"set sysctl {name}: {error.strerror}", Code.INVALID_ARGUMENT) from error
