"""Let the host reach ports on the guest's loopback through the pod's network namespace.

Engines forward a port by connecting to localhost in the pod's network namespace, which for them is
where its containers are.  Here the containers are in the guest: what connects there is passed on.
"""

from __future__ import annotations

import os
import socket
import threading

from kata.base.errors import Code, KataError, describe_error
from kata.base.log import Logger
from kata.host.network import sklookup
from kata.host.sandbox.agent import Agent

_CHUNK_BYTES = 128 << 10
_BACKLOG = 64
# A shim without descriptors left tries again after this.
_RETRY_S = 1.0


class PortForward:
    """Accepts until it is closed; each connection has two threads while it lasts."""

    def __init__(self, netns_path: str, agent: Agent, log: Logger) -> None:
        """Start accepting.  Raises KataError where the kernel cannot do it."""
        self._agent = agent
        self._log = log
        self._closed = threading.Event()
        netns_fd = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._listener = _listen_inside(netns_fd)
            try:
                self._link_fd = sklookup.catch_loopback(self._listener.fileno(), netns_fd)
            except BaseException:
                self._listener.close()
                raise
        finally:
            os.close(netns_fd)
        threading.Thread(target=self._accept, name="forward", daemon=True).start()

    def close(self) -> None:
        """Stop accepting.  May be called twice."""
        if not self._closed.is_set():
            self._closed.set()
            os.close(self._link_fd)
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it

    def _accept(self) -> None:
        with self._listener:
            while not self._closed.is_set():
                try:
                    connection, _ = self._listener.accept()
                except OSError as error:
                    if not self._closed.is_set():
                        self._log.warning("no connection accepted", error=error.strerror)
                        self._closed.wait(_RETRY_S)
                    continue
                threading.Thread(
                    target=self._serve, args=(connection,), name="forward", daemon=True
                ).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            port = connection.getsockname()[1]
            try:
                number = self._agent.dial(port)
            except KataError as error:
                self._log.info("port not forwarded", port=port, error=describe_error(error))
                _reset(connection)
                return
            sender = threading.Thread(
                target=self._send, args=(connection, number), name="forward", daemon=True
            )
            sender.start()
            self._receive(connection, number)
            sender.join()
            self._close_in_guest(number)

    def _receive(self, connection: socket.socket, number: int) -> None:
        try:
            while data := self._agent.receive(number, _CHUNK_BYTES):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except (KataError, OSError) as error:
            self._log.debug("forwarding ended", error=describe_error(error))
            _shut(connection)

    def _send(self, connection: socket.socket, number: int) -> None:
        try:
            while data := connection.recv(_CHUNK_BYTES):
                self._agent.send(number, data)
            self._agent.send(number, b"")
        except (KataError, OSError) as error:
            self._log.debug("forwarding ended", error=describe_error(error))
            self._close_in_guest(number)

    def _close_in_guest(self, number: int) -> None:
        try:
            self._agent.hang_up(number)
        except KataError as error:
            self._log.debug("forwarding ended", error=describe_error(error))


def _listen_inside(netns_fd: int) -> socket.socket:
    """Return a listener in a network namespace; nothing outside of it can reach it."""
    from kata.base import syscalls

    results: list[socket.socket | OSError] = []

    def listen() -> None:
        try:
            syscalls.setns(netns_fd, syscalls.CLONE_NEWNET)
            results.append(_listen())
        except OSError as error:
            results.append(error)

    # setns(2) moves the calling thread only.
    thread = threading.Thread(target=listen, name="netns")
    thread.start()
    thread.join()
    listener = results[0]
    if isinstance(listener, OSError):
        raise KataError(
            f"listen in the pod's network namespace: {listener.strerror}", Code.FAILED_PRECONDITION
        )
    return listener


def _listen() -> socket.socket:
    try:
        listener = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
    except OSError:  # a host without IPv6
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.bind(("127.0.0.1", 0))
    listener.listen(_BACKLOG)
    return listener


def _reset(connection: socket.socket) -> None:
    """Close with a reset, the nearest to "connection refused" after accepting."""
    import struct

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the peer was faster
