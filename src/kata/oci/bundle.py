"""A bundle on disk: config.json, read and checked before anything is made from it."""

from __future__ import annotations

import json
import os
from typing import Any

from kata.base.errors import Code, KataError
from kata.base.sysctls import check_own

# A pod's config.json is tens of kilobytes; ten megabytes is a mistake or an attack.
_MAX_BYTES = 10 << 20


def load_spec(bundle: str) -> dict[str, Any]:
    """Return config.json of a bundle as a JSON object.

    Raises NOT_FOUND when there is none, INVALID_ARGUMENT when it is no JSON object or lacks what
    every container needs (``process.args`` and ``root.path`` may be checked by the caller).
    """
    path = os.path.join(bundle, "config.json")
    try:
        with open(path, "rb") as file:
            text = file.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise KataError(f"read bundle {bundle}: config.json is missing", Code.NOT_FOUND) from error
    except OSError as error:
        raise KataError(f"read {path}: {error.strerror}", Code.FAILED_PRECONDITION) from error
    if len(text) > _MAX_BYTES:
        raise KataError(f"read {path}: larger than {_MAX_BYTES} bytes", Code.INVALID_ARGUMENT)
    return parse_spec(text, path)


def load_annotations(bundle: str) -> dict[str, str]:
    """Return the annotations of a bundle's spec."""
    return annotations_of(load_spec(bundle))


def annotations_of(spec: dict[str, Any]) -> dict[str, str]:
    """Return a spec's annotations.  Raises INVALID_ARGUMENT when they are no object of texts."""
    found = spec.get("annotations") or {}
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise KataError("read config.json.annotations: no object of texts", Code.INVALID_ARGUMENT)
    return found


def check_sysctls(spec: dict[str, Any]) -> None:
    """Raise INVALID_ARGUMENT, in runc's words, for what runc's validator refuses of host names.

    That is a host name without a namespace for it, and kernel settings that are not the container's
    own.
    """
    linux = spec.get("linux") or {}
    kinds = {str(entry.get("type")) for entry in linux.get("namespaces") or []}
    if spec.get("hostname") and "uts" not in kinds:
        raise KataError(
            "unable to set hostname without a private UTS namespace", Code.INVALID_ARGUMENT
        )
    settings = linux.get("sysctl") or {}
    if not isinstance(settings, dict):
        raise KataError("read config.json.linux.sysctl: no object of texts", Code.INVALID_ARGUMENT)
    check_own(settings, kinds)


def parse_spec(text: bytes, path: str) -> dict[str, Any]:
    """Parse the text of a config.json; ``path`` is for messages."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise KataError(f"read {path}: invalid JSON: {error}", Code.INVALID_ARGUMENT) from error
    if not isinstance(document, dict):
        raise KataError(f"read {path}: it is no JSON object", Code.INVALID_ARGUMENT)
    return document
