"""Options of a kernel's configuration as text."""

from __future__ import annotations

import pytest

from kata.base.errors import KataError
from kata.image.kconfig import list_ignored, parse_options, render_options

TEXT = """\
# A heading, and words about CONFIG_THIS

CONFIG_64BIT=y
CONFIG_NR_CPUS=256
CONFIG_ADDRESS=0xffff
CONFIG_TIMEOUT=-1
CONFIG_LSM="landlock,yama"
# CONFIG_MODULES is not set
"""
OPTIONS = {
    "64BIT": "y",
    "NR_CPUS": "256",
    "ADDRESS": "0xffff",
    "TIMEOUT": "-1",
    "LSM": '"landlock,yama"',
    "MODULES": "n",
}


def test_options_are_read_and_written() -> None:
    assert parse_options(TEXT, "x") == OPTIONS
    assert parse_options(render_options(OPTIONS), "x") == OPTIONS


@pytest.mark.parametrize(
    "line", ["64BIT=y", "CONFIG_A", "CONFIG_A=yes", " CONFIG_A=y", 'CONFIG_A="x', "CONFIG_A=y # b"]
)
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(KataError, match=r"read some:2: .* is no option of a kernel"):
        parse_options(f"CONFIG_B=y\n{line}\n", "some")


def test_an_option_that_stands_twice_is_refused() -> None:
    with pytest.raises(KataError, match="read some:2: CONFIG_A stands there twice"):
        parse_options("CONFIG_A=y\n# CONFIG_A is not set\n", "some")


def test_what_had_no_effect_is_listed_with_what_is_there() -> None:
    wanted = {"A": "y", "B": "n", "C": "3", "D": "n", "E": "y"}
    made = {"A": "y", "C": "4", "D": "y"}
    assert list_ignored(wanted, made) == [
        "CONFIG_C=3 (is 4)",
        "CONFIG_D=n (is y)",
        "CONFIG_E=y (is n)",
    ]
