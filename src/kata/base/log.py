"""Structured log lines in logfmt, as containerd's own.

A line is a constant message and fields: ``time="…" level=info msg="container created" sandbox=s1
ms=41``.  The standard library's logging costs 10 ms and 2 MB at import in every pod; this is all of
it that a shim or an agent uses.
"""

from __future__ import annotations

import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_BARE = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/@^+:")


class Logger:
    """Write lines to a sink, each with the fields the logger was given."""

    def __init__(self, sink: Callable[[bytes], object], **fields: object) -> None:
        """``sink`` takes one whole line; it must not raise and not block for long."""
        self._sink = sink
        self._fields = fields
        self.debug_enabled = False

    def bind(self, **fields: object) -> Logger:
        """Return a logger that adds ``fields`` to every line."""
        bound = Logger(self._sink, **{**self._fields, **fields})
        bound.debug_enabled = self.debug_enabled
        return bound

    def debug(self, message: str, **fields: object) -> None:
        """Log what only a developer wants; dropped unless ``debug_enabled``."""
        if self.debug_enabled:
            self._write("debug", message, fields)

    def info(self, message: str, **fields: object) -> None:
        """Log a step of a pod's life."""
        self._write("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Log something degraded, with its reason."""
        self._write("warning", message, fields)

    def error(self, message: str, exc: BaseException | None = None, **fields: object) -> None:
        """Log a failure; ``exc`` adds its traceback, for errors nobody expected."""
        if exc is not None:
            import traceback

            fields["traceback"] = "".join(traceback.format_exception(exc))
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        self._sink(render_line(time.time(), level, message, {**self._fields, **fields}))


def render_line(now: float, level: str, message: str, fields: dict[str, object]) -> bytes:
    """Render one line, newline included; ``now`` in seconds since the epoch."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    parts = [f'time="{stamp}.{int(now % 1 * 1000):03d}Z" level={level} msg={_quote(message)}']
    parts += [f"{key}={_quote(str(value))}" for key, value in fields.items()]
    return (" ".join(parts) + "\n").encode("utf-8", "backslashreplace")


def _quote(text: str) -> str:
    if text and _BARE.issuperset(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in escaped) + '"'
