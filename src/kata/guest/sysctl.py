"""Kernel settings that containers ask for.

The guest has one network namespace, the pod's: its ``net.*`` are set here, as crun sets them only
in a namespace of the container's own.  The others are left to crun.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.oci.render import Json

_ROOT = "/proc/sys"


def apply_network(spec: dict[str, Json]) -> None:
    """Set ``net.*`` and take it out of the spec.  Raises INVALID_ARGUMENT naming the setting."""
    linux = spec.get("linux")
    settings = linux.get("sysctl") if isinstance(linux, dict) else None
    if not isinstance(settings, dict):
        return
    for name in [name for name in settings if name.startswith(("net.", "net/"))]:
        path = find_path(name)
        try:
            files.control(path, str(settings.pop(name)))
        except OSError as error:
            raise KataError(
                f"set sysctl {name}: {error.strerror}", Code.INVALID_ARGUMENT
            ) from error


def find_path(name: str) -> str:
    """Return a setting's file; dots separate, or slashes where a part has dots (sysctl(8))."""
    parts = name.split("/") if "/" in name else name.split(".")
    if any(part in ("", ".", "..") for part in parts):
        raise KataError(f"set sysctl {name!r}: no such setting", Code.INVALID_ARGUMENT)
    return "/".join((_ROOT, *parts))
