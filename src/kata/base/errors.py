"""The one error type, and the codes that cross the wire.

Everything that fails for a reason the user can act on raises ``KataError``.  The place that
answers a request turns it into a ttrpc status; nothing else looks inside.

    KataError
    ├── RpcError        a peer answered with a status, or its connection ended (kata.rpc)
    └── ...             only where somebody catches it
"""

from __future__ import annotations


class Code:
    """gRPC status codes, as ttrpc uses them (google.rpc.Code)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class KataError(Exception):
    """Say what failed, for whom, and what to do about it.

    ``message`` reads ``verb object: reason``, lower case, with the offending value; ``code`` is one
    of ``Code``; ``hint`` is one sentence for the operator, empty when there is nothing to advise.
    The cause, when there is one, is ``__cause__`` (``raise ... from``).
    """

    def __init__(self, message: str, code: int = Code.INTERNAL, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


def describe_error(error: BaseException) -> str:
    """Render an error with its chain of causes on one line, each cause once."""
    parts: list[str] = []
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        text = str(current) or type(current).__name__
        # Messages mostly have an OSError's words already, without its number.
        words = current.strerror if isinstance(current, OSError) else None
        if not any(text in part or (words and words in part) for part in parts):
            parts.append(text)
        current = current.__cause__
    return ": ".join(parts)


def error_code(error: BaseException) -> int:
    """Return the status code that an answer to a request carries for ``error``."""
    if isinstance(error, KataError):
        return error.code
    if isinstance(error, FileNotFoundError):
        return Code.NOT_FOUND
    if isinstance(error, PermissionError):
        return Code.PERMISSION_DENIED
    if isinstance(error, TimeoutError):
        return Code.DEADLINE_EXCEEDED
    return Code.INTERNAL
