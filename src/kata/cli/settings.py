"""What all verbs are told: where state is, where errors go, which configuration counts."""

from __future__ import annotations

import os
import sys
import time

from kata.base.errors import Code, KataError, describe_error
from kata.base.jsontext import render_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.cli.table import Options


class Settings:
    """The global flags, and the log.  Raises INVALID_ARGUMENT for an unknown format."""

    def __init__(self, program: str, options: Options) -> None:
        self.program = program
        self.root = os.path.abspath(options.text("root"))
        self.config_path = options.text("config") and os.path.abspath(options.text("config"))
        self.debug = options.has("debug")
        self.systemd_cgroup = options.has("systemd-cgroup")
        self._log_path = options.text("log")
        self._format = options.text("log-format")
        if self._format not in ("text", "json"):
            raise KataError(f"invalid log-format: {self._format!r}", Code.INVALID_ARGUMENT)

    def fail(self, error: BaseException, prefix: str = "") -> None:
        """Log an error as runc does: to the log, and to standard error if that is another."""
        text = f"{prefix}{describe_error(error)}"
        self._write("error", text)
        if self._log_path:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._write("warning", text)

    def _write(self, level: str, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._format == "json":
            line = render_json({"level": level, "msg": text, "time": stamp})
        else:
            line = f'time="{stamp}" level={level} msg={render_json(text)}'
        try:
            target = self._log_path or "/dev/stderr"
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            fd = os.open(target, flags, 0o644) if self._log_path else 2
            os.write(fd, f"{line}\n".encode("utf-8", "backslashreplace"))
            if fd != 2:
                os.close(fd)
        except OSError as error:
            print(f"{text} (and {target}: {error.strerror})", file=sys.stderr)
