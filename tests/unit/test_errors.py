"""Errors and their causes, on one line."""

from __future__ import annotations

import pytest

from kata.base.errors import Code, KataError, describe_error


def failure(message: str, cause: BaseException) -> BaseException:
    with pytest.raises(KataError) as caught:
        raise KataError(message, Code.INTERNAL) from cause
    return caught.value


@pytest.mark.parametrize(
    ("message", "cause", "text"),
    [
        ("do x", ValueError("it is odd"), "do x: it is odd"),
        ("do x: it is odd", ValueError("it is odd"), "do x: it is odd"),
        ("do x", OSError(2, "No such file", "/y"), "do x: [Errno 2] No such file: '/y'"),
        ("open /y: No such file", OSError(2, "No such file", "/y"), "open /y: No such file"),
        ("do x", KeyError(), "do x: KeyError"),
        ("do x", OSError("plain"), "do x: plain"),
    ],
)
def test_causes_are_told_once(message: str, cause: BaseException, text: str) -> None:
    assert describe_error(failure(message, cause)) == text


def test_an_error_that_is_its_own_cause_has_an_end() -> None:
    error = KataError("start")
    error.__cause__ = KataError("because")
    error.__cause__.__cause__ = error
    assert describe_error(error) == "start: because"
