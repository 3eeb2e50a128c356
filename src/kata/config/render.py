"""Render the shipped configuration.toml from the table of settings.

Run as a program to write the file: ``python -m kata.config.render > config/configuration.toml``.
A test holds the two together.
"""

from __future__ import annotations

import json
import sys
import textwrap

from kata.config.parse import SECTIONS, facts_of, settings_of

HEADER = """\
# Configuration of the kata container runtime.
#
# The runtime reads the first of: the ConfigPath option that containerd gives, the file named by
# the environment variable KATA_CONF_FILE, /etc/kata-containers/configuration.toml and
# /usr/share/defaults/kata-containers/configuration.toml.  Files config.d/*.toml beside it are
# merged over it in the order of their names.  Every key stands here with its default.
"""
WIDTH = 98


def render_config() -> str:
    """Return the text of the file."""
    parts = [HEADER]
    for section in SECTIONS:
        parts.append(f"\n[{section}]\n")
        for key, field in settings_of(section).items():
            lines = textwrap.wrap(facts_of(field).documentation, WIDTH)
            parts += [f"# {line}\n" for line in lines]
            parts.append(f"{key} = {_render_value(field.default)}\n\n")
        parts[-1] = parts[-1].removesuffix("\n")
    return "".join(parts)


def _render_value(value: object) -> str:
    # JSON's literals of booleans, numbers, texts and lists of texts are TOML's too.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.stdout.write(render_config())
