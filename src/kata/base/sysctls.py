"""Kernel settings by name: which namespace they belong to, and what they let run.  Pure.

For both sides: the host checks what a pod asks for, the guest sets it.
"""

from __future__ import annotations

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

ROOT = "/proc/sys"
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
_HOSTNAME = "kernel.hostname"
# What runc says of settings of a namespace that a container does not have.
_NOT_OWN = {
    "ipc": "is not allowed in the hosts ipc namespace",
    "network": "not allowed in host network namespace",
}
_PREFIXES = {"net.": "network", "fs.mqueue.": "ipc"}
# Programs that the kernel runs as the guest's root, outside of every container (proc(5)).
_PROGRAMS = frozenset({"kernel.hotplug", "kernel.modprobe", "kernel.poweroff_cmd"})
_HELPERS = "kernel.usermodehelper."
_CORE_PATTERN = "kernel.core_pattern"


def find_namespace(name: str) -> str:
    """Return the kind of namespace that a setting belongs to, empty when it is everybody's."""
    dotted = name.replace("/", ".")
    for prefix, kind in _PREFIXES.items():
        if dotted.startswith(prefix):
            return kind
    return _NAMESPACES.get(dotted, "")


def find_path(name: str) -> str:
    """Return a setting's file; dots separate, or slashes where a part has dots (sysctl(8)).

    Raises INVALID_ARGUMENT for what is no name.
    """
    parts = name.split("/") if "/" in name else name.split(".")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise KataError(f"set sysctl {name!r}: no such setting", Code.INVALID_ARGUMENT)
    return "/".join((ROOT, *parts))


def parse_setting(line: str) -> tuple[str, str]:
    """Return name and value of ``name=value``, as in sysctl.conf(5).

    Raises INVALID_ARGUMENT for a line that is none.
    """
    name, separator, value = line.partition("=")
    name, value = name.strip(), value.strip()
    if not separator or not value:
        raise KataError(f"read {line!r}: it is not name=value", Code.INVALID_ARGUMENT)
    find_path(name)
    return name, value


def check_own(names: Iterable[str], namespaces: Collection[str]) -> None:
    """Raise INVALID_ARGUMENT, in runc's words, unless a container's settings are its own.

    ``namespaces`` are the kinds of those that it has.  The host name has a field of its own.
    """
    for name in names:
        dotted = _render_dotted(name)
        kind = find_namespace(dotted)
        if kind in namespaces and dotted != _HOSTNAME:
            continue
        if kind in namespaces:
            reason = 'is not allowed as it conflicts with the OCI "hostname" field'
        else:
            reason = _NOT_OWN.get(kind, "is not in a separate kernel namespace")
        raise KataError(f'sysctl "{dotted}" {reason}', Code.INVALID_ARGUMENT)


def explain_refusal(name: str, value: str) -> str:
    """Return why a setting cannot be made for a whole machine; empty when it can."""
    dotted = name.replace("/", ".")
    kind = find_namespace(dotted)
    if kind not in ("", "network"):
        return f"{name} belongs to a container's {kind} namespace: use the pod's sysctls"
    is_pipe = dotted == _CORE_PATTERN and value.startswith("|")
    if is_pipe or dotted in _PROGRAMS or dotted.startswith(_HELPERS):
        return f"{name} lets the kernel run a program outside of the containers"
    return ""


def _render_dotted(name: str) -> str:
    """Return a name with dots between its parts: the first separator tells which it has."""
    slash, dot = name.find("/"), name.find(".")
    if slash < 0 or 0 <= dot < slash:
        return name
    return name.translate({ord("/"): ".", ord("."): "/"})
