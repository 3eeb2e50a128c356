"""The factory's loop: one thread, so that it can fork at any time.

Each connection brings one message: a command of the shim to run in a fork, a template to make, or
the wish that the factory ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial

from kata.base import fdpass
from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.config.load import load_config
from kata.host.factory.fork import Request, run_request
from kata.host.factory.pool import Pool, sweep
from kata.host.resource.memory import MemoryWatch
from kata.host.sandbox.hint import find_hint
from kata.host.shim.arguments import parse_arguments
from kata.host.template.address import END, RUN, STATUS, WANT
from kata.oci.bundle import load_spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.host.shim.handover import Daemon

# A peer that connects and says nothing is dropped after this.
_SILENCE_S = 5.0
# What waits for sandboxes ends within this time.
_END_S = 5.0
# A template that could not be made is not tried again before.
_RETRY_S = 600.0


class Factory:
    """Serves one listener until nobody has wanted anything for ``idle_s``."""

    def __init__(self, listener: socket.socket, own_code: str, idle_s: float, log: Logger) -> None:
        """``own_code`` tells installations apart: a launcher of another one is declined."""
        self._listener = listener
        self._own_code = own_code
        self._idle_s = idle_s
        self._log = log
        self._peers: dict[int, tuple[socket.socket, float]] = {}
        self._children: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._wishes: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, float] = {}
        self._builder = 0
        self._poller = select.poll()
        self._pool = Pool(self._fork, self._poller, MemoryWatch(), log)
        self._modules = _stamps()
        self._ending = False

    def serve(self) -> None:
        """Serve; returns in the factory itself when it is idle, never in a fork."""
        self._poller.register(self._listener, select.POLLIN)
        self._fork(sweep, lambda _: None)
        last = time.monotonic()
        while True:
            ready = self._poller.poll(self._timeout_ms(last))
            if ready or self._builder:
                last = time.monotonic()
            elif not self._peers and time.monotonic() - last >= self._idle_s:
                return
            if self._modules != _stamps():
                self._log.info("factory ends: its code was changed")
                return
            # One at a time: what is done for it may give the number of another to somebody else.
            for fd, _ in ready[:1]:
                self._handle(fd)
            if self._ending:
                return
            self._drop_silent()
            self._build_next()
            if not self._builder:
                self._pool.refill()

    def _timeout_ms(self, last: float) -> float:
        left_s = _SILENCE_S if self._peers else last + self._idle_s - time.monotonic()
        return max(0.0, left_s) * 1000 + 1

    def _handle(self, fd: int) -> None:
        if fd == self._listener.fileno():
            peer, _ = self._listener.accept()
            self._peers[peer.fileno()] = (peer, time.monotonic())
            self._poller.register(peer, select.POLLIN)
        elif fd in self._peers:
            self._receive(fd)
        elif fd in self._children:
            pid, on_end = self._children.pop(fd)
            self._poller.unregister(fd)
            os.close(fd)
            _, status = os.waitpid(pid, 0)
            on_end(os.waitstatus_to_exitcode(status))
        else:
            self._pool.handle(fd)

    def _receive(self, fd: int) -> None:
        peer, _ = self._peers.pop(fd)
        self._poller.unregister(fd)
        fds: list[int] = []
        with peer:
            try:
                parts, fds = fdpass.receive(peer)
                if parts[:1] == [RUN]:
                    self._run(parts, fds, peer)
                elif parts[:1] == [WANT] and len(parts) == 2:
                    self._note_wish(json.loads(parts[1]))
                elif parts == [STATUS]:
                    fdpass.send(peer, [json.dumps(self._describe()).encode()])
                elif parts == [END]:
                    self._end()  # and then hang up
            except (KataError, OSError, ValueError, KeyError, TypeError) as error:
                self._log.warning("message not understood", reason=error)
            finally:
                for number in fds:
                    os.close(number)

    def _end(self) -> None:
        """End what waits and what is being made; sandboxes go on."""
        self._ending = True
        ending = self._pool.close()
        if self._builder:
            os.kill(self._builder, signal.SIGKILL)
            ending.add(self._builder)
        poller = select.poll()
        for pidfd, (pid, _) in self._children.items():
            if pid in ending:
                poller.register(pidfd, select.POLLIN)
        deadline = time.monotonic() + _END_S
        while ending and (left_s := deadline - time.monotonic()) > 0:
            for pidfd, _ in poller.poll(left_s * 1000):
                poller.unregister(pidfd)
                ending.discard(self._children[pidfd][0])
                self._handle(pidfd)
        sweep()

    def _describe(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "building": bool(self._builder or self._wishes),
            "spares": self._pool.describe(),
        }

    def _run(self, parts: list[bytes], fds: list[int], peer: socket.socket) -> None:
        request = Request(parts, fds)
        if request.code != self._own_code:
            return  # the launcher does it itself
        if (spare := self._pool.take(_find_hint(request))) is not None:
            with spare.control:
                try:
                    fdpass.send(spare.control, parts, [*fds, peer.fileno()])
                    return
                except OSError:
                    pass  # it has just died
        self._fork(lambda: run_request(request, peer, _run_shim), lambda _: None, peer.fileno())

    def _fork(
        self, work: Callable[[], int | None], on_end: Callable[[int], None], *kept: int
    ) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                self._forget(set(kept))
                status = work() or 0
            except Exception as error:  # noqa: BLE001  # nobody else can tell
                self._log.error("fork failed", exc=error)
            finally:
                os._exit(status)
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (pid, on_end)
        self._poller.register(pidfd, select.POLLIN)
        return pid

    def _forget(self, kept: set[int]) -> None:
        """Close in a fork what is the factory's."""
        own = (self._listener.fileno(), *self._peers, *self._children, *self._pool.fds())
        for fd in own:
            if fd not in kept:
                os.close(fd)

    def _note_wish(self, wish: dict[str, Any]) -> None:
        kind = wish["kind"]
        load_config(str(kind["config"]), {})  # which is kept for the forks
        if wish["spares"]:
            self._pool.note(kind, wish["hint"], wish["spares"])
        else:
            self._pool.forget(wish["hint"])
        if wish["template"]:
            self._wishes[json.dumps(kind, sort_keys=True)] = kind

    def _build_next(self) -> None:
        while self._wishes and not self._builder:
            text, kind = next(iter(self._wishes.items()))
            del self._wishes[text]
            if time.monotonic() < self._failed.get(text, 0.0):
                continue

            def on_end(status: int, text: str = text) -> None:
                self._builder = 0
                if status != 0:
                    self._failed[text] = time.monotonic() + _RETRY_S
                    if not self._ending:
                        self._fork(sweep, lambda _: None)

            self._builder = self._fork(partial(self._build, kind), on_end)

    def _build(self, kind: dict[str, Any]) -> int:
        """Make a template in this fork; returns the exit status."""
        from kata.base.processes import Spawner
        from kata.base.title import set_title
        from kata.host.factory.build import build_template
        from kata.host.sandbox.spare import read_machine

        set_title([sys.executable, "-IS", sys.argv[0], "build-template"])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.nice(19)
        try:
            config = load_config(str(kind["config"]), {})
            build_template(read_machine(kind), config, self._log, Spawner())
        except (KataError, OSError, KeyError, TypeError) as error:
            self._log.warning("template not made", reason=describe_error(error))
            return 1
        return 0

    def _drop_silent(self) -> None:
        now = time.monotonic()
        for fd, (peer, since) in list(self._peers.items()):
            if now - since > _SILENCE_S:
                self._poller.unregister(fd)
                del self._peers[fd]
                peer.close()


def _find_hint(request: Request) -> str:
    """Return what the bundle tells of a sandbox that is to be; empty when nothing can be told."""
    try:
        arguments = parse_arguments(request.argv[1:])
        if arguments.action != "start":
            return ""
        spec = load_spec(f"/proc/self/fd/{request.folder}")
        return find_hint(arguments.id, arguments.namespace, request.environ, spec)
    except (KataError, OSError):
        return ""  # who does the work says what is wrong


def _run_shim() -> tuple[int, Daemon | None]:
    from kata.host.shim.main import run

    return run(parse_arguments(sys.argv[1:]))


def _stamps() -> list[tuple[str, int]]:
    """Return when the files of the loaded code were changed."""
    stamps = []
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if name.startswith("kata.") and path:
            with contextlib.suppress(OSError):
                stamps.append((path, os.stat(path).st_mtime_ns))
    return stamps
