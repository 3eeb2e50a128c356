"""Kernel configurations as text: options by name, and what of them did not take effect.

Owned by the image builder.  Pure.  Format: Documentation/kbuild/kconfig.rst of the kernel.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError

if TYPE_CHECKING:
    from collections.abc import Mapping

OFF = "n"
_SET = re.compile(r"CONFIG_(\w+)=(y|m|n|-?\d+|0x[0-9a-fA-F]+|\"[^\"\n]*\")")
_NOT_SET = re.compile(r"# CONFIG_(\w+) is not set")


def parse_options(text: str, name: str) -> dict[str, str]:
    """Return the options of a configuration or a part of one, without ``CONFIG_``.

    ``name`` is for messages.  Raises INVALID_ARGUMENT for a line that is neither an option nor a
    comment, and for an option that stands there twice.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        found = _SET.fullmatch(line) or _NOT_SET.fullmatch(line)
        if found is None:
            if line.strip() and not line.startswith("#"):
                raise KataError(
                    f"read {name}:{number}: {line!r} is no option of a kernel",
                    Code.INVALID_ARGUMENT,
                )
            continue
        if found[1] in options:
            raise KataError(
                f"read {name}:{number}: CONFIG_{found[1]} stands there twice", Code.INVALID_ARGUMENT
            )
        options[found[1]] = found[2] if found.re is _SET else OFF
    return options


def render_options(options: Mapping[str, str]) -> str:
    """Return the text of a configuration."""
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == OFF else f"CONFIG_{name}={value}\n"
        for name, value in options.items()
    )


def list_ignored(wanted: Mapping[str, str], made: Mapping[str, str]) -> list[str]:
    """Return the wanted options that a configuration does not have, each with what it has."""
    return [
        f"CONFIG_{name}={value} (is {found})"
        for name, value in wanted.items()
        if (found := made.get(name, OFF)) != value
    ]
