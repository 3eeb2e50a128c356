"""Put the agent together: guest, sandbox, services, and the connections they are served on."""

from __future__ import annotations

import os
import threading

from kata.guest import health, sockets
from kata.rpc.frame import Channel
from kata.rpc.server import Server

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator, Mapping

    from kata.base.log import Logger
    from kata.guest.forker import Forker
    from kata.guest.guest import Guest
    from kata.guest.reaper import Reaper
    from kata.guest.runtime import Runtime
    from kata.guest.sandbox import Sandbox
    from kata.rpc.server import Method

    _Table = Mapping[str, Method]
else:
    # The server only looks methods up.
    _Table = object


class Agent:
    """The services of one guest."""

    def __init__(
        self, guest: Guest, reaper: Reaper, log: Logger, forker: Forker | None = None
    ) -> None:
        """Without a ``forker`` crun starts every process."""
        self._guest = guest
        self._forker = forker
        self._reaper = reaper
        self._log = log
        self._lock = threading.Lock()
        self._sandbox: Sandbox | None = None
        self.cgroup_manager = "cgroupfs"
        self._table = LateTable(self._agent_methods)
        services: dict[str, Mapping[str, Method]] = {
            "grpc.Health": health.methods(),
            "grpc.AgentService": self._table,
            "kata.Clock": LateTable(self._clock_methods),
            "kata.Forward": LateTable(_forward_methods),
            "kata.Signals": LateTable(self._signals_methods),
            "kata.Volumes": LateTable(_volumes_methods),
            "kata.Template": LateTable(self._template_methods),
            "kata.Settings": LateTable(self._settings_methods),
        }
        self.server = Server(services, log)

    def preload(self) -> None:
        """Load now what the first request of the AgentService would have to load."""
        self._table.load()

    def sandbox(self) -> Sandbox:
        """Return the sandbox; the first call loads the code that it needs."""
        with self._lock:
            if self._sandbox is None:
                from kata.guest.sandbox import Sandbox

                self._sandbox = Sandbox(self._guest, self._make_runtime, self._log)
            return self._sandbox

    def serve_port(self, fd: int) -> None:
        """Serve a virtio-serial port for ever, one host connection after the other."""
        from kata.guest import ports

        # A write that waits for the host does so turning, and for each 32 KiB (drivers/char/
        # virtio_console.c); without, as much is on its way as the queue has room for.
        os.set_blocking(fd, False)
        channel = Channel(fd, lambda: None)
        while True:
            self.server.serve(channel)
            self._log.warning("host hung up")
            ports.wait_for_host(fd)

    def serve_listener(self, listener: _socket.socket) -> None:
        """Serve every connection that comes, for ever; takes the listener."""
        while True:
            peer = sockets.accept(listener)
            threading.Thread(
                target=self._serve_connection, args=(peer,), name="connection", daemon=True
            ).start()

    def _serve_connection(self, peer: _socket.socket) -> None:
        def hang_up() -> None:
            try:
                peer.shutdown(2)
            except OSError:
                pass  # the host was faster

        try:
            self.server.serve(Channel(peer.fileno(), hang_up))
        finally:
            hang_up()
            # Requests under way may still answer on this descriptor; it is closed with the object,
            # when the last of them has let it go.

    def _agent_methods(self) -> dict[str, Method]:
        from kata.guest.service import AgentService

        self._guest.wait_ready()
        return AgentService(self.sandbox(), self._guest, self._reaper, self._log).methods()

    def _signals_methods(self) -> dict[str, Method]:
        from kata.guest.sendall import SendAll

        return SendAll(self.sandbox()).methods()

    def _clock_methods(self) -> dict[str, Method]:
        from kata.guest import clock

        return clock.methods(self._guest)

    def _settings_methods(self) -> dict[str, Method]:
        from kata.guest.settings import Settings

        self._guest.wait_ready()
        return Settings().methods()

    def _template_methods(self) -> dict[str, Method]:
        from kata.guest.template import Template

        return Template(self._guest, self._forker, self.sandbox).methods()

    def _make_runtime(self) -> Runtime:
        from kata.guest.sandbox import RUN

        root = f"{RUN}/sandbox/crun"
        if self._forker is None:
            from kata.guest.crun import Crun

            return Crun(root, self.cgroup_manager, self._reaper, self._log)
        from kata.guest.native import Native

        return Native(root, self.cgroup_manager, self._reaper, self._log, self._forker)


def _forward_methods() -> dict[str, Method]:
    from kata.guest.forward import Forward

    return Forward().methods()


def _volumes_methods() -> dict[str, Method]:
    from kata.guest.volumes import Volumes

    return Volumes().methods()


class LateTable(_Table):
    """A service's table that is loaded at its first use, so that Health can answer before."""

    def __init__(self, load: Callable[[], dict[str, Method]]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._methods: dict[str, Method] | None = None

    def load(self) -> dict[str, Method]:
        """Return the table, made by the first caller."""
        with self._lock:
            if self._methods is None:
                self._methods = self._load()
            return self._methods

    def __getitem__(self, name: str) -> Method:
        return self.load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())
