"""Streams of exec, attach and port-forward: the WebSocket protocols of Kubernetes.

A message is one byte that names the channel, then data.  The fourth version of the protocol cannot
say that the input ends; what reads to the end of its input needs a terminal and Ctrl-D.
"""

from __future__ import annotations

import json
import struct
import time
from contextlib import ExitStack
from types import TracebackType

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Subprotocol

STDIN, STDOUT, STDERR, ERROR, RESIZE = range(5)
TIMEOUT_S = 30.0


class _Stream:
    """One WebSocket and what came over its channels so far."""

    def __init__(self, url: str, protocol: str) -> None:
        self.received: dict[int, bytearray] = {number: bytearray() for number in range(5)}
        self._open = ExitStack()
        connection = connect(
            url.replace("http://", "ws://", 1),
            subprotocols=[Subprotocol(protocol)],
            compression=None,
            ping_interval=None,
            proxy=None,
            open_timeout=TIMEOUT_S,
        )
        self._socket = self._open.enter_context(connection)
        assert self._socket.subprotocol == protocol

    def __enter__(self) -> _Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._open.close()

    def _send(self, channel: int, data: bytes) -> None:
        self._socket.send(bytes([channel]) + data)

    def _receive(self, deadline: float) -> bool:
        """Take one message; false when the other side has hung up."""
        try:
            message = self._socket.recv(max(deadline - time.monotonic(), 0.001))
        except ConnectionClosed:
            return False
        except TimeoutError:
            raise AssertionError(f"nothing came in time; so far {self.received}") from None
        assert isinstance(message, bytes)
        if message:
            self.received[message[0]] += message[1:]
        return True


class Session(_Stream):
    """A process with streams, of exec or attach."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "v4.channel.k8s.io")

    def __enter__(self) -> Session:
        return self

    @property
    def stdout(self) -> bytes:
        """What the process has written to its output so far."""
        return bytes(self.received[STDOUT])

    @property
    def stderr(self) -> bytes:
        """What the process has written to its error output so far."""
        return bytes(self.received[STDERR])

    def send(self, data: bytes) -> None:
        """Write to the process's input."""
        self._send(STDIN, data)

    def resize(self, columns: int, rows: int) -> None:
        """Change the terminal's size."""
        self._send(RESIZE, json.dumps({"Width": columns, "Height": rows}).encode())

    def read_until(self, wanted: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return the output as soon as it has some text in it."""
        deadline = time.monotonic() + timeout_s
        while wanted not in self.stdout:
            assert self._receive(deadline), f"ended without {wanted!r}: {self.received}"
        return self.stdout

    def wait(self, timeout_s: float = TIMEOUT_S) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + timeout_s
        while self._receive(deadline):
            pass
        status = json.loads(self.received[ERROR] or b'{"status": "none"}')
        if status["status"] == "Success":
            return 0
        causes = status.get("details", {}).get("causes", [])
        codes = [cause["message"] for cause in causes if cause["reason"] == "ExitCode"]
        assert codes, f"the stream ended without an exit code: {status}"
        return int(codes[0])


class Forward(_Stream):
    """One connection to a port inside a pod."""

    def __init__(self, url: str, port: int) -> None:
        super().__init__(url, "v4.channel.k8s.io")
        deadline = time.monotonic() + TIMEOUT_S
        # Data and error channel both begin with the port, so that a client can tell several apart.
        while len(self.received[0]) < 2 or len(self.received[1]) < 2:
            assert self._receive(deadline), "hung up before the channels were there"
        for channel in (0, 1):
            assert struct.unpack("<H", self.received[channel][:2]) == (port,)
            del self.received[channel][:2]

    def __enter__(self) -> Forward:
        return self

    @property
    def error(self) -> str:
        """What the runtime said went wrong, so far."""
        return self.received[1].decode(errors="replace")

    def send(self, data: bytes) -> None:
        """Write to the connection."""
        self._send(0, data)

    def read_all(self, timeout_s: float = TIMEOUT_S) -> bytes:
        """Return what the port sends until it hangs up."""
        deadline = time.monotonic() + timeout_s
        while self._receive(deadline):
            pass
        return bytes(self.received[0])
