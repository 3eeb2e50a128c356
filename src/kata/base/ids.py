"""Names that come from outside and become part of paths."""

from __future__ import annotations

from kata.base.errors import Code, KataError

# containerd's own limit for identifiers is 76; docker and CRI use 64 hexadecimal digits.
MAX_LENGTH = 76
_FIRST = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_REST = _FIRST | frozenset("_.-")


def check_id(kind: str, value: str) -> str:
    """Return ``value`` if it is a valid id, else raise INVALID_ARGUMENT.

    Valid is what containerd's identifiers.Validate accepts: letters and digits, with single ``_``,
    ``.`` or ``-`` inside, at most 76 characters; so it is one path component and never ``..``.
    """
    shown = value if len(value) <= MAX_LENGTH else value[:MAX_LENGTH] + "..."
    if not value:
        raise KataError(f"check {kind} id: it is empty", Code.INVALID_ARGUMENT)
    if len(value) > MAX_LENGTH:
        raise KataError(
            f"check {kind} id {shown!r}: {len(value)} characters, at most {MAX_LENGTH} are allowed",
            Code.INVALID_ARGUMENT,
        )
    if value[0] not in _FIRST or not _REST.issuperset(value) or ".." in value:
        raise KataError(
            f"check {kind} id {shown!r}: only letters, digits, '_', '.' and '-' are allowed,"
            " starting with a letter or digit",
            Code.INVALID_ARGUMENT,
        )
    return value
