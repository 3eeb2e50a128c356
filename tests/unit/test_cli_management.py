"""What a guest says, on a terminal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kata.cli.management import make_printable


@given(st.text())
def test_nothing_commands_a_terminal(text: str) -> None:
    shown = make_printable(text)
    assert shown.replace("\t", "").isprintable()
    assert "\x1b" not in shown


def test_the_rest_stays() -> None:
    assert make_printable("plain, grün\t1") == "plain, grün\t1"
    assert make_printable("a\x1b[2Jb\r") == "a\\x1b[2Jb\\x0d"
