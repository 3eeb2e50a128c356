"""The agent protocol's Spec as the JSON objects of the OCI runtime specification.

The guest's agent calls it to write config.json and process.json for the runtime.  The conversion
follows the messages' descriptors, so a field added to the protocol needs no code here; what the
general rule gets wrong stands in the tables at the top.

proto3 cannot tell zero from unset.  A value that equals its default is therefore left out, which is
right wherever the specification has a pointer or an ``omitempty`` (memory limit, CPU shares, hook
timeout, file mode); where it requires the member, and zero means zero (``RLIMIT_CORE``, user id 0,
a device's minor), ``_REQUIRED`` keeps it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Json: TypeAlias = bool | int | str | list["Json"] | dict[str, "Json"] | None

# Members whose JSON name does not follow from the field's name.
_NAMES = {
    ("Spec", "Version"): "ociVersion",
    ("LinuxHugepageLimit", "Pagesize"): "pageSize",
    ("LinuxSyscall", "errnoret"): "errnoRet",
}

# Members that the specification requires, written even when they are zero, false or empty.
_REQUIRED = {
    "Box": ("Height", "Width"),
    "User": ("UID", "GID"),
    "Process": ("Cwd",),
    "Root": ("Path",),
    "POSIXRlimit": ("Type", "Hard", "Soft"),
    "LinuxIDMapping": ("HostID", "ContainerID", "Size"),
    "LinuxDevice": ("Major", "Minor"),
    "LinuxDeviceCgroup": ("Allow", "Major", "Minor"),
    "LinuxWeightDevice": ("Major", "Minor"),
    "LinuxThrottleDevice": ("Major", "Minor", "Rate"),
    "LinuxHugepageLimit": ("Limit",),
    "LinuxInterfacePriority": ("Name", "Priority"),
    "LinuxSeccompArg": ("Index", "Value", "Op"),
}

# Not for Linux.
_DROPPED = {"Spec": ("Solaris", "Windows")}


def render_message(message: Any) -> dict[str, Json]:
    """Render a message of oci.proto (Spec, Process, LinuxResources, ...) as its JSON object."""
    kind = message.DESCRIPTOR.name
    dropped = _DROPPED.get(kind, ())
    members: dict[str, Json] = {}
    for field, value in message.ListFields():
        if field.name not in dropped:
            members[member_name(kind, field.name)] = _render_field(field, value)
    for name in _REQUIRED.get(kind, ()):
        members.setdefault(member_name(kind, name), getattr(message, name))
    if kind == "LinuxDeviceCgroup":
        _drop_wildcards(members)
    return members


def member_name(kind: str, field: str) -> str:
    """Return the JSON name of a field: a leading run of capitals is lowered (OOMScoreAdj, UID)."""
    special = _NAMES.get((kind, field))
    if special is not None:
        return special
    capitals = 0
    while capitals < len(field) and field[capitals].isupper():
        capitals += 1
    # The last capital of a run begins the next word, unless it is the first or the name ends.
    if 1 < capitals < len(field) and field[capitals].islower():
        capitals -= 1
    return field[:capitals].lower() + field[capitals:]


def _render_field(field: Any, value: Any) -> Json:
    if field.message_type is None:
        return list(value) if field.is_repeated else value
    if hasattr(value, "items"):  # a map; its descriptor's options would load half of protobuf
        return dict(value)
    if field.is_repeated:
        return [render_message(item) for item in value]
    return render_message(value)


def _drop_wildcards(rule: dict[str, Json]) -> None:
    """Leave out the numbers of a device rule that stand for "any".

    Our host sends -1 for an absent number, upstream's sends 0.  No device has the number 0:0, so
    both zero is "any"; a lone zero is a number (the minor of a disk).
    """
    major, minor = rule["major"], rule["minor"]
    if rule.get("type", "a") == "a" or (major == 0 and minor == 0):
        major = minor = -1
    for name, number in (("major", major), ("minor", minor)):
        if number == -1:
            del rule[name]
