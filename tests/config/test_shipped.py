"""The file that is shipped, held against the table of settings."""

from __future__ import annotations

from pathlib import Path

from kata.config.parse import ConfigFile, parse_config
from kata.config.render import render_config

SHIPPED = Path(__file__).parents[2] / "config" / "configuration.toml"


def test_the_shipped_file_is_rendered_from_the_table() -> None:
    assert SHIPPED.read_text() == render_config(), "run python -m kata.config.render"


def test_the_shipped_file_says_the_defaults() -> None:
    shipped = parse_config([ConfigFile("x", SHIPPED.read_text())])
    assert shipped == parse_config([ConfigFile("x", "")])
