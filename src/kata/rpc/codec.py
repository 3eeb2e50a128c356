"""Build message classes from serialized descriptors with protobuf's C core (upb) alone.

The modules of ``kata.rpc.pb`` call this; nothing else does.  Importing ``google.protobuf`` the
usual way costs 22 ms and 4 MB in every shim (and 0.4 s in an emulated guest), nearly all of it for
Python code that generated messages never touch: text format, the pure-Python codec, reflection.
The C core needs none of it.

The classes live in a descriptor pool of their own, so a process that uses google.protobuf as well
(a test, a command line tool with gRPC) is not disturbed.
"""

from __future__ import annotations

import sys

import google.protobuf.internal  # noqa: F401  the package that the C core looks its Python parts up in
from google._upb import _message as upb
from google.protobuf.message import Message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The C core asks this module for mix-ins of Timestamp, Any and the like when it makes its first
# class.  An answer without any spares the import of datetime, calendar and typing.
_MIXINS = "google.protobuf.internal.well_known_types"

_pool = upb.DescriptorPool()


def load(namespace: dict[str, Any], serialized: bytes) -> None:
    """Define the messages, enums and enum values of one file in ``namespace``.

    ``serialized`` is a FileDescriptorProto.  Files have to be loaded in the order of their imports.
    """
    spare = _MIXINS not in sys.modules
    if spare:
        stand_in = type(sys)(_MIXINS)
        stand_in.WKTBASES = {}  # type: ignore[attr-defined]
        sys.modules[_MIXINS] = stand_in
    try:
        file = _pool.AddSerializedFile(serialized)
        for name, descriptor in file.message_types_by_name.items():
            namespace[name] = _message_class(descriptor, namespace["__name__"])
    finally:
        if spare:
            del sys.modules[_MIXINS]
    for name, enum in file.enum_types_by_name.items():
        namespace[name] = enum
        namespace.update({value.name: value.number for value in enum.values})


def _message_class(descriptor: Any, module: str) -> type:
    members: dict[str, Any] = {"DESCRIPTOR": descriptor, "__module__": module}
    for nested in descriptor.nested_types:
        members[nested.name] = _message_class(nested, module)
    made: type = upb.MessageMeta(descriptor.name, (Message,), members)
    return made
