"""Settings that a pod's author changes for one pod, by annotations ``io.katacontainers.config.*``.

Pure.  Every one of them, of whatever section, has to be allowed by ``enable_annotations``: each of
its patterns is matched with the whole key (``kernel_params``) and with section and key
(``runtime.disable_guest_seccomp``).  What is not allowed, unknown or wrong is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from kata.base.errors import Code, KataError
from kata.config.inactive import INACTIVE
from kata.config.parse import (
    accept_inactive,
    convert_value,
    find_conflict,
    known_keys,
    nearest,
    settings_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import dataclasses
    from collections.abc import Mapping
    from typing import Any, NoReturn

    from kata.config.records import Config

PREFIX = "io.katacontainers.config."
_OURS = "io.katacontainers."
# Set by other parts of Kata Containers for themselves; they ask for nothing.
_INTERNAL = "io.katacontainers.pkg.oci."
# Word in the annotation -> section of the file and field of the record.
_SECTIONS = {
    "hypervisor": ("hypervisor.qemu", "hypervisor"),
    "runtime": ("runtime", "runtime"),
    "agent": ("agent.kata", "agent"),
}
# What decides over annotations cannot be changed by them.
_GUARDS = frozenset(
    {"enable_annotations", "valid_hypervisor_paths", "valid_virtio_fs_daemon_paths"}
)
# Programs of the host: the list of patterns that allow them.
_PROGRAMS = {
    ("hypervisor.qemu", "path"): "valid_hypervisor_paths",
    ("hypervisor.qemu", "virtio_fs_daemon"): "valid_virtio_fs_daemon_paths",
}
# A root that a pod names takes the place of the other kind.
_ROOTS = {"image": "initrd", "initrd": "image"}


@dataclass(frozen=True, slots=True)
class _Given:
    """An annotation's value as somebody wrote it, and as a value of the file would be."""

    annotation: str
    section: str
    key: str
    value: object

    def refuse(self, reason: str, hint: str = "") -> NoReturn:
        raise KataError(f"read annotation {self.annotation}: {reason}", Code.INVALID_ARGUMENT, hint)


def apply_annotations(config: Config, annotations: Mapping[str, str]) -> Config:
    """Return the configuration for one pod.  Raises INVALID_ARGUMENT that names the annotation."""
    wanted: dict[tuple[str, str], _Given] = {}
    for name in sorted(annotations):
        if name.startswith(PREFIX):
            word, _, key = name[len(PREFIX) :].partition(".")
            section, _ = _SECTIONS.get(word, ("", ""))
            given = _Given(name, section, key, annotations[name])
            _check_allowed(config, word, given)
            wanted[word, key] = given
        elif name.startswith(_OURS) and not name.startswith(_INTERNAL):
            _Given(name, "", "", "").refuse("it is not supported")
    for (word, _), given in wanted.items():
        config = _apply(config, word, given)
    conflict = find_conflict(config)
    if conflict is not None:
        section, key, reason = conflict
        raise KataError(
            f"read annotations: {section}.{key}: {reason}",
            Code.INVALID_ARGUMENT,
            f"the pod sets {', '.join(given.annotation for given in wanted.values())}",
        )
    return config


def _check_allowed(config: Config, word: str, given: _Given) -> None:
    import re

    known = [f"{PREFIX}{word}.{key}" for key in known_keys(given.section)]
    if given.annotation not in known or given.key in _GUARDS:
        given.refuse("no such setting", nearest(given.annotation, known))
    names = (given.key, f"{word}.{given.key}")
    patterns = config.hypervisor.enable_annotations
    if not any(re.fullmatch(pattern, name) for pattern in patterns for name in names):
        given.refuse(
            "it is not enabled",
            f"add {given.key!r} to enable_annotations in [hypervisor.qemu] of {config.path}",
        )


def _apply(config: Config, word: str, given: _Given) -> Config:
    field = settings_of(given.section).get(given.key)
    if field is None:
        value = _guess_value(given)
        accept_inactive(replace(given, value=value))
        warning = f"annotation {given.annotation} has no effect"
        return replace(config, warnings=(*config.warnings, warning))
    value = convert_value(replace(given, value=_parse_value(given, field)), field)
    _check_path(config, given, value)
    part = _SECTIONS[word][1]
    changed = replace(getattr(config, part), **{field.name: value})
    if field.name in _ROOTS and value:
        changed = replace(changed, **{_ROOTS[field.name]: ""})
    return replace(config, **{part: changed})


def _parse_value(given: _Given, field: dataclasses.Field[Any]) -> object:
    """Return the text as the type that the file would have; what cannot be one stays text."""
    text = str(given.value)
    kind = type(field.default)
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    if kind is tuple:
        return _parse_list(given, text)
    return text


def _parse_list(given: _Given, text: str) -> object:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(";") if item.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        given.refuse(f"{text!r} is no list: {error}")


def _guess_value(given: _Given) -> object:
    text = str(given.value)
    accepted = INACTIVE[given.section][given.key]
    for value in accepted or ():
        if text == (str(value).lower() if isinstance(value, bool) else str(value)):
            return value
    return text


def _check_path(config: Config, given: _Given, value: object) -> None:
    """Raise unless the administrator allows a program that an annotation names."""
    import fnmatch

    guard = _PROGRAMS.get((given.section, given.key), "")
    if not guard:
        return
    patterns = getattr(config.hypervisor, guard)
    if ".." in str(value).split("/") or not any(
        fnmatch.fnmatchcase(str(value), pattern) for pattern in patterns
    ):
        given.refuse(f"{value!r} is not allowed", f"add it to {guard} in [hypervisor.qemu]")
