"""Whatever the text, the answer is a configuration or a KataError."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.config.inactive import INACTIVE
from kata.config.parse import SECTIONS, ConfigFile, parse_config, settings_of

KEYS = sorted({key for section in SECTIONS for key in (*settings_of(section), *INACTIVE[section])})
VALUES = st.one_of(
    st.booleans().map(json.dumps),
    st.integers().map(str),
    st.floats().map(
        lambda number: repr(number).replace("e", ".0e") if "." not in repr(number) else repr(number)
    ),
    st.text(max_size=20).map(json.dumps),
    st.lists(
        st.one_of(st.text(max_size=5).map(json.dumps), st.integers().map(str)), max_size=3
    ).map(lambda items: f"[{', '.join(items)}]"),
    st.sampled_from(["", "{}", "{a = 1}", "1979-05-27", "07:32:00", "0x10", "inf", "[[]]", "'''x"]),
)
LINES = st.one_of(
    st.sampled_from([f"[{section}]" for section in INACTIVE]),
    st.builds("{} = {}".format, st.sampled_from(KEYS), VALUES),
    st.builds("{} = {}".format, st.text(max_size=10), VALUES),
    st.text(alphabet="[]{}=.\"'#\\ \n\tabcdef0123456789", max_size=30),
)


def answer(text: str) -> None:
    try:
        parse_config([ConfigFile("fuzz.toml", text)])
    except KataError as error:
        assert error.code == Code.INVALID_ARGUMENT  # noqa: PT017 - both ends are fine here


@given(st.text())
def test_any_text(text: str) -> None:
    answer(text)


@given(st.lists(LINES, max_size=12).map("\n".join))
def test_text_like_a_configuration(text: str) -> None:
    answer(text)


@given(st.sampled_from(sorted(SECTIONS)), st.data())
def test_any_value_of_a_known_key(section: str, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(settings_of(section))))
    answer(f"[{section}]\n{key} = {data.draw(VALUES)}")
