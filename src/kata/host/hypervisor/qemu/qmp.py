"""QEMU's machine protocol over an inherited socket (docs/interop/qmp-spec)."""

from __future__ import annotations

import array
import collections
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from kata.base.errors import Code, KataError

Message: TypeAlias = dict[str, Any]
# Events that nobody waits for are forgotten when there are more.
_KEPT_EVENTS = 64


class QmpRefusedError(KataError):
    """QEMU understood a command and refused it."""


class QmpBrokenError(KataError):
    """The monitor is gone, late, or does not speak the protocol."""


class Qmp:
    """A monitor connection.  Owns its socket; one command at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self._buffer = b""
        self._greeted = False
        self._events: collections.deque[Message] = collections.deque(maxlen=_KEPT_EVENTS)

    def execute(
        self,
        command: str,
        arguments: dict[str, object] | None = None,
        *,
        fd: int | None = None,
        timeout_s: float = 10.0,
    ) -> Any:
        """Run a command and return its answer; ``fd`` (borrowed) is sent along for ``getfd``.

        Raises QmpRefusedError with QEMU's words, or QmpBrokenError.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            if not self._greeted:
                self._read_message(deadline, lambda message: "QMP" in message)
                self._roundtrip("qmp_capabilities", {}, None, deadline)
                self._greeted = True
            return self._roundtrip(command, arguments or {}, fd, deadline)

    def wait_event(self, name: str, wanted: Callable[[Message], bool], timeout_s: float) -> Message:
        """Wait for an event whose data are ``wanted``, and return them.

        One that came before, unless it was asked for already, counts as well.
        """

        def matches(message: Message) -> bool:
            return message.get("event") == name and wanted(message.get("data", {}))

        with self._lock:
            for event in self._events:
                if matches(event):
                    self._events.remove(event)
                    return event.get("data", {})  # type: ignore[no-any-return]
            message = self._read_message(time.monotonic() + timeout_s, matches)
        return message.get("data", {})  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _roundtrip(
        self, command: str, arguments: dict[str, object], fd: int | None, deadline: float
    ) -> Any:
        data = json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        rights = array.array("i", [] if fd is None else [fd])
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if fd is not None else []
        try:
            self._sock.sendmsg([data], ancillary)
        except OSError as error:
            raise QmpBrokenError(f"execute {command}: {error}", Code.UNAVAILABLE) from error
        answer = self._read_message(deadline, lambda m: "return" in m or "error" in m)
        if "error" in answer:
            raise QmpRefusedError(f"execute {command}: {answer['error'].get('desc')}")
        return answer["return"]

    def _read_message(self, deadline: float, wanted: Callable[[Message], bool]) -> Message:
        while True:
            line, separator, rest = self._buffer.partition(b"\n")
            if separator:
                self._buffer = rest
                try:
                    message = json.loads(line)
                except ValueError as error:
                    raise QmpBrokenError(f"read monitor: {line[:80]!r} is no JSON") from error
                if wanted(message):
                    return message  # type: ignore[no-any-return]
                if "event" in message:
                    self._events.append(message)
                continue
            self._sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                raise QmpBrokenError("read monitor: no answer", Code.DEADLINE_EXCEEDED) from None
            except OSError as error:
                raise QmpBrokenError(f"read monitor: {error}", Code.UNAVAILABLE) from error
            if not data:
                raise QmpBrokenError("read monitor: QEMU has ended", Code.UNAVAILABLE)
            self._buffer += data
