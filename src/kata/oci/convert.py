"""OCI JSON to the agent protocol's messages, driven by the messages' own descriptors.

The messages of oci.proto name their fields as the specification does but for case, so no table of
fields is needed; the few places where JSON can say "absent" and proto3 cannot are listed here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kata.base.errors import Code, KataError
from kata.rpc.pb import oci_pb2

# JSON key -> field, where they differ by more than case.
_RENAMED = {("Spec", "ociversion"): "Version"}
# Absent in JSON means "any" for a device rule; the agent takes -1 for that.
_ABSENT = {("LinuxDeviceCgroup", "Major"): -1, ("LinuxDeviceCgroup", "Minor"): -1}
_STRING = 9  # FieldDescriptor.TYPE_STRING
_MESSAGE = 11
_BOOL = 8


def convert_spec(document: dict[str, Any]) -> oci_pb2.Spec:
    """Convert a whole config.json.  Raises INVALID_ARGUMENT that names the path of a bad value."""
    spec = oci_pb2.Spec()
    fill_message(spec, document, "config.json")
    return spec


def convert_process(document: dict[str, Any]) -> oci_pb2.Process:
    """Convert the process object of an exec."""
    process = oci_pb2.Process()
    fill_message(process, document, "process")
    return process


def convert_resources(document: dict[str, Any]) -> oci_pb2.LinuxResources:
    """Convert the resources of an update."""
    resources = oci_pb2.LinuxResources()
    fill_message(resources, document, "resources")
    return resources


def fill_message(message: Any, document: Any, path: str) -> None:
    """Fill ``message`` from a JSON object; keys the protocol does not know are left out."""
    if not isinstance(document, dict):
        raise _bad(path, "an object", document)
    descriptor = message.DESCRIPTOR
    fields = {field.name.lower(): field for field in descriptor.fields}
    for key, value in document.items():
        lowered = str(key).lower()
        name = _RENAMED.get((descriptor.name, lowered), lowered).lower()
        field = fields.get(name)
        if field is not None and value is not None:
            _fill_field(message, field, value, f"{path}.{key}")
    present = {str(key).lower() for key in document}
    for (owner, name), absent in _ABSENT.items():
        if owner == descriptor.name and name.lower() not in present:
            setattr(message, name, absent)


def _fill_field(message: Any, field: Any, value: Any, path: str) -> None:
    if field.is_repeated:
        target = getattr(message, field.name)
        if hasattr(target, "items"):  # a map; its descriptor's options would load half of protobuf
            _fill_map(target, value, path)
            return
        if not isinstance(value, list):
            raise _bad(path, "a list", value)
        for index, item in enumerate(value):
            if field.type == _MESSAGE:
                fill_message(target.add(), item, f"{path}[{index}]")
            else:
                _store(target.append, field, item, f"{path}[{index}]")
    elif field.type == _MESSAGE:
        child = getattr(message, field.name)
        child.SetInParent()
        fill_message(child, value, path)
    else:
        _store(lambda checked: setattr(message, field.name, checked), field, value, path)


def _store(put: Callable[[Any], None], field: Any, value: Any, path: str) -> None:
    try:
        put(_scalar(field, value, path))
    except UnicodeEncodeError as error:
        raise _bad(path, "Unicode text", value) from error
    except ValueError as error:
        raise _bad(path, f"a number in range ({error})", value) from error


def _fill_map(target: Any, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _bad(path, "an object", value)
    for key, item in value.items():
        if not isinstance(item, str):
            raise _bad(f"{path}.{key}", "a string", item)
        try:
            target[key] = item
        except UnicodeEncodeError as error:
            raise _bad(f"{path}.{key}", "Unicode text", item) from error


def _scalar(field: Any, value: Any, path: str) -> Any:
    if field.type == _STRING:
        if not isinstance(value, str):
            raise _bad(path, "a string", value)
        if "\0" in value:
            raise _bad(path, "a string without NUL", value)
    elif field.type == _BOOL:
        if not isinstance(value, bool):
            raise _bad(path, "true or false", value)
    elif isinstance(value, bool) or not isinstance(value, int):
        raise _bad(path, "a whole number", value)
    return value


def _bad(path: str, wanted: str, value: object) -> KataError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "..."
    path = path.encode("utf-8", "backslashreplace").decode()
    return KataError(f"read {path}: expected {wanted}, found {shown}", Code.INVALID_ARGUMENT)
