"""Checks of single settings: each returns why a value is wrong, or an empty string.

Called while a configuration is read; they look at the value only, never at the machine.
"""

from __future__ import annotations

from kata.base.errors import KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Value = bool | int | float | str | tuple[str, ...]
    Check = Callable[[Value], str]


def anything(_value: Value) -> str:
    """Accept every value of the right type."""
    return ""


def one_of(*choices: str) -> Check:
    """Accept the listed words."""

    def check(value: Value) -> str:
        return "" if value in choices else f"must be one of {', '.join(map(repr, choices))}"

    return check


def between(lowest: float, highest: float, unit: str = "") -> Check:
    """Accept numbers in a range, its ends included."""

    def check(value: Value) -> str:
        if isinstance(value, int | float) and lowest <= value <= highest:
            return ""
        return f"must be between {lowest:g} and {highest:g}{' ' if unit else ''}{unit}"

    return check


def power_of_two(lowest: int, highest: int) -> Check:
    """Accept powers of two in a range."""

    def check(value: Value) -> str:
        if isinstance(value, int) and lowest <= value <= highest and value & (value - 1) == 0:
            return ""
        return f"must be a power of two between {lowest} and {highest}"

    return check


def absolute_path(value: Value) -> str:
    """Accept absolute paths without a zero byte."""
    good = isinstance(value, str) and value.startswith("/") and "\0" not in value
    return "" if good else "must be an absolute path"


def absolute_path_or_empty(value: Value) -> str:
    """Accept absolute paths, and the empty string for none."""
    return "" if value == "" else absolute_path(value)


def absolute_paths(value: Value) -> str:
    """Accept lists of absolute paths, which may be patterns."""
    good = isinstance(value, tuple) and not any(absolute_path(path) for path in value)
    return "" if good else "must be a list of absolute paths"


def regular_expressions(value: Value) -> str:
    """Accept lists of regular expressions."""
    import re  # only configurations that change the list pay for it

    try:
        for pattern in value if isinstance(value, tuple) else ():
            re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"has a bad regular expression: {error}"
    return ""


def one_line(value: Value) -> str:
    """Accept text without control characters, as goes on a command line."""
    texts = value if isinstance(value, tuple) else (value,)
    good = all(isinstance(text, str) and (text.isprintable() or not text) for text in texts)
    return "" if good else "must not contain control characters"


def sysctls(value: Value) -> str:
    """Accept lists of ``name=value`` that can be set for a whole machine."""
    from kata.base.sysctls import explain_refusal, parse_setting

    for line in value if isinstance(value, tuple) else ():
        if not line.isprintable():
            return "must not contain control characters"
        try:
            reason = explain_refusal(*parse_setting(line))
        except KataError as error:
            reason = error.message
        if reason:
            return f"cannot be: {reason}"
    return ""


def only(accepted: Value, reason: str) -> Check:
    """Accept one value, until the others are supported."""

    def check(value: Value) -> str:
        return "" if value == accepted else reason

    return check
