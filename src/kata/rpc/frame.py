"""ttrpc frames on a byte stream: the 10-byte header, its limits, reading and writing whole frames.

Source: containerd/ttrpc, PROTOCOL.md.  A header is length (u32), stream id (u32), message type (u8)
and flags (u8), big endian; the length is that of the data that follows and at most 4 MiB.
"""

from __future__ import annotations

import os
import select
import struct
import threading
import time

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

HEADER = struct.Struct(">IIBB")
MAX_LENGTH = 4 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

REMOTE_CLOSED = 1
REMOTE_OPEN = 2
NO_DATA = 4

# Room for a message is made in steps of this much, so that the length that a peer claims costs
# nothing until its bytes arrive; output comes in messages of half of it.
_READ_CHUNK = 1 << 19
# A message up to this length is mostly read at once.
_SHORT = 1 << 13
# Of send(2); the socket module is not for guests.
_MSG_DONTWAIT = 0x40


class FrameError(KataError):
    """The peer broke the framing, or its stream ended inside a frame: the connection is lost."""


class OversizedError(KataError):
    """A message was larger than the protocol allows; it was skipped, the stream is fine."""

    def __init__(self, stream_id: int, length: int) -> None:
        super().__init__(
            f"read message: {length} bytes exceed the limit of {MAX_LENGTH}",
            Code.RESOURCE_EXHAUSTED,
        )
        self.stream_id = stream_id


class Frame:
    """One frame: stream id, type, flags, data."""

    __slots__ = ("data", "flags", "kind", "stream_id")

    def __init__(self, stream_id: int, kind: int, flags: int, data: bytes) -> None:
        self.stream_id = stream_id
        self.kind = kind
        self.flags = flags
        self.data = data


class Channel:
    """A byte stream that carries frames: a socket, or a virtio-serial port of a guest.

    Reads belong to one thread; writes may come from any.  The channel owns its descriptor, which
    may be one that does not block.
    """

    def __init__(self, fd: int, hang_up: Callable[[], None]) -> None:
        self._fd = fd
        self._hang_up = hang_up
        self._sock: socket.socket | None = None
        self._write_lock = threading.Lock()
        # What is left of a frame whose writer had a deadline.
        self._rest = b""

    @classmethod
    def from_socket(cls, sock: socket.socket) -> Channel:
        """Take a connected stream socket; the caller's object is a closed one afterwards.

        The descriptor is closed with the last who holds the channel.  Were it closed earlier, a
        thread that is about to read or write would do so on whatever has its number next.
        """
        own = type(sock)(fileno=sock.detach())

        def hang_up() -> None:
            try:
                own.shutdown(2)
            except OSError:
                pass  # the peer was faster

        channel = cls(own.fileno(), hang_up)
        channel._sock = own
        return channel

    def read_frame(self) -> Frame | None:
        """Read one frame; None at the end of the stream.

        Raises OversizedError for a message over the limit (skipped), FrameError for anything else
        that is no frame.
        """
        header = self._read_exactly(HEADER.size, at_boundary=True)
        if not header:
            return None
        length, stream_id, kind, flags = HEADER.unpack(header)
        if kind not in (REQUEST, RESPONSE, DATA):
            raise FrameError(f"read frame: unknown message type {kind}", Code.INVALID_ARGUMENT)
        if length > MAX_LENGTH:
            self._skip(length)
            raise OversizedError(stream_id, length)
        return Frame(stream_id, kind, flags, self._read_exactly(length))

    def write_frame(
        self,
        stream_id: int,
        kind: int,
        data: bytes,
        flags: int = 0,
        deadline: float | None = None,
    ) -> None:
        """Write one frame whole.  Raises OversizedError before anything is sent, or OSError.

        A peer that does not read makes it wait, or raise DEADLINE_EXCEEDED at ``deadline`` (of
        time.monotonic()).  What was written of the frame by then is completed by the next.
        """
        if len(data) > MAX_LENGTH:
            raise OversizedError(stream_id, len(data))
        left_s = -1.0 if deadline is None else _left_s(deadline)
        if not self._write_lock.acquire(timeout=left_s):
            raise _too_late()
        try:
            rest, self._rest = self._rest, b""
            self._write(rest, deadline, begun=True)
            self._write(HEADER.pack(len(data), stream_id, kind, flags) + data, deadline)
        finally:
            self._write_lock.release()

    def _write(self, data: bytes, deadline: float | None, *, begun: bool = False) -> None:
        """Write bytes; those that are left at the deadline are kept if some were written."""
        view = memoryview(data)
        while view:
            try:
                view = view[self._write_some(view, deadline) :]
            except BlockingIOError:
                if not self._wait(select.POLLOUT, deadline):
                    if begun or len(view) < len(data):
                        self._rest = bytes(view)
                    raise _too_late() from None

    def _write_some(self, view: memoryview, deadline: float | None) -> int:
        if deadline is None or self._sock is None:
            return os.write(self._fd, view)
        return self._sock.send(view, _MSG_DONTWAIT)

    def hang_up(self) -> None:
        """End the stream in both directions; a blocked read returns.  May be called twice."""
        self._hang_up()

    def _read_exactly(self, length: int, *, at_boundary: bool = False) -> bytes:
        data = self._read(length) if 0 < length <= _SHORT else b""
        if len(data) == length or (not data and at_boundary):
            return data
        room = bytearray(data)
        filled = len(data)
        while filled < length:
            if filled == len(room):
                room.extend(bytes(min(length - filled, _READ_CHUNK)))
            with memoryview(room) as whole, whole[filled:] as free:
                count = self._read_into(free)
            if not count:
                raise FrameError(
                    f"read frame: stream ended {length - filled} bytes before its end",
                    Code.UNAVAILABLE,
                )
            filled += count
        return bytes(room)

    def _skip(self, length: int) -> None:
        while length:
            length -= len(self._read_exactly(min(length, _READ_CHUNK)))

    def _read_into(self, room: memoryview) -> int:
        while True:
            try:
                return os.readv(self._fd, [room])
            except BlockingIOError:
                self._wait(select.POLLIN)
            except ConnectionResetError:
                return 0  # a peer that died is a peer that hung up

    def _read(self, length: int) -> bytes:
        while True:
            try:
                return os.read(self._fd, length)
            except BlockingIOError:
                self._wait(select.POLLIN)
            except ConnectionResetError:
                return b""

    def _wait(self, event: int, deadline: float | None = None) -> bool:
        """Wait until the descriptor can be written or read; False at the deadline."""
        poll = select.poll()
        poll.register(self._fd, event)
        found = poll.poll(None if deadline is None else _left_s(deadline) * 1000)
        for _, events in found:
            if event == select.POLLOUT and events & (select.POLLHUP | select.POLLERR):
                raise BrokenPipeError("write frame: the peer has hung up")
        return bool(found)


def _left_s(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _too_late() -> KataError:
    return KataError("write frame: the peer does not read", Code.DEADLINE_EXCEEDED)
