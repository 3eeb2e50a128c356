"""QEMU's command line as data: pairs of option and value, and the descriptors it inherits."""

from __future__ import annotations

import json
from typing import TypeAlias

Option: TypeAlias = tuple[str, str]


def json_option(option: str, properties: dict[str, object]) -> Option:
    """Return ``-device`` or the like in its JSON form."""
    return option, json.dumps(properties, separators=(",", ":"))


def render_argv(binary: str, options: list[Option]) -> list[str]:
    """Flatten the pairs; an empty value stands for an option without one."""
    argv = [binary]
    for option, value in options:
        argv += [option, value] if value else [option]
    return argv


class InheritedFds:
    """Descriptors that the machine's process gets, numbered from 3 in the order they are added."""

    def __init__(self) -> None:
        self.by_number: dict[int, int] = {}

    def add(self, fd: int) -> int:
        """Return the number that ``fd`` (borrowed) will have in the child."""
        number = 3 + len(self.by_number)
        self.by_number[number] = fd
        return number
