"""The long-lived process: a mount namespace of its own, a log, a server, and an orderly end."""

from __future__ import annotations

import os
import signal
import socket
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.host.shim import address
from kata.host.shim.creator import ShimIdentity
from kata.host.shim.events import Publisher
from kata.host.shim.service import SERVICE_NAMES, TaskService
from kata.host.shim.tasks import Tasks
from kata.rpc.frame import Channel
from kata.rpc.server import Server, after_answer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.host.sandbox.spare import Spare
    from kata.host.shim.arguments import Arguments
    from kata.host.shim.handover import Starter

# The last event has to reach containerd before the process ends.
_LAST_EVENTS_S = 5.0
# Who asks for the end is not kept longer by a machine that does not end, nor keeps it longer.
_GONE_S = 5.0
_ANSWER_S = 1.0
# An engine that was told of this shim makes itself known at once.
_SILENCE_S = 60.0
# And one that was perhaps told, by a starting process that was killed then.
_STRANGER_S = 1.0


def serve(
    arguments: Arguments,
    listener: socket.socket,
    path: str,
    starter: Starter,
    spare: Spare | None = None,
) -> None:
    """Serve until containerd shuts the shim down, or will never know of it.

    ``spare`` is a machine that runs already.
    """
    log = Logger(LogSink("log").write, sandbox=arguments.id, pid=os.getpid())
    log.debug_enabled = "debug" in arguments.switches
    view = HostView()
    isolate_mounts()
    end = _End()
    _ignore_signals(end)
    publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), arguments.namespace, log)
    identity = ShimIdentity(arguments.namespace, path, view)
    tasks = Tasks(identity, publisher, Spawner(), log, spare)
    service = TaskService(tasks, end.reach)
    server = Server(dict.fromkeys(SERVICE_NAMES, service.methods()), log, tasks.durations)
    asked = threading.Event()
    threading.Thread(
        target=_accept, args=(listener, server, asked), name="accept", daemon=True
    ).start()
    starter.tell_ready()
    if asked.wait(_SILENCE_S if starter.wait_known() else _STRANGER_S):
        end.wanted.wait()
    tasks.stop()
    address.remove(path)
    end.tell_gone()
    publisher.close(_LAST_EVENTS_S)
    log.info("shim ends")


class _End:
    """The order of an end: it is wanted, nothing is left, which is answered, the process ends.

    Who has the answer may start another sandbox of that id.
    """

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self._gone = threading.Event()
        self._answered = threading.Event()

    def reach(self) -> None:
        """Return when nothing is left, for the thread that answers then."""
        after_answer(self._answered.set)
        self.wanted.set()
        self._gone.wait(_GONE_S)

    def leave(self) -> None:
        """Want it where nobody asks, and nobody is to be answered."""
        self._answered.set()
        self.wanted.set()

    def tell_gone(self) -> None:
        """Say so, and wait for the answer if one is waited for."""
        self._gone.set()
        if self.wanted.is_set():
            self._answered.wait(_ANSWER_S)


class LogSink:
    """containerd's log FIFO in the bundle; lines are dropped while nobody reads it."""

    def __init__(self, path: str) -> None:
        try:
            # Both ends, so that a restarting containerd is no broken pipe; full means dropped.
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            self._fd = -1

    def write(self, line: bytes) -> None:
        """Write a line if there is room."""
        if self._fd >= 0:
            try:
                os.write(self._fd, line)
            except OSError:
                pass  # a log that nobody reads must not stop the pod


def isolate_mounts() -> None:
    """Leave the host's mount namespace: what is mounted here ends with this process."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    try:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    except OSError as error:
        raise KataError(
            f"separate mounts from the host's: make / a slave: {error.strerror}",
            Code.FAILED_PRECONDITION,
            "start the engine where / is a mount point",
        ) from error


def _ignore_signals(end: _End) -> None:
    # A signal to containerd's process group must not end pods.
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(signum, signal.SIG_IGN)

    def on_term(_signum: int, _frame: object) -> None:
        if _lost_bundle():
            # In a thread, as the one that was interrupted may hold the event's lock.
            threading.Thread(target=end.leave, name="end", daemon=True).start()

    signal.signal(signal.SIGTERM, on_term)


def _lost_bundle() -> bool:
    """Return whether the bundle, where this process stands, was deleted.

    Who did that has forgotten the sandbox: nobody can ask for its end any more.
    """
    try:
        return not os.listdir(".")
    except FileNotFoundError:
        return True


def _accept(listener: socket.socket, server: Server, asked: threading.Event) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(
            target=serve_connection,
            args=(connection, server, asked),
            name="connection",
            daemon=True,
        ).start()


def serve_connection(connection: socket.socket, server: Server, asked: threading.Event) -> None:
    """Answer what comes on a connection, which is the callee's, until it ends.

    ``asked`` is set when something comes; who only looks whether this answers is no user of it.
    """
    try:
        if connection.recv(1, socket.MSG_PEEK):
            asked.set()
    except OSError:
        pass  # which the server will see
    channel = Channel.from_socket(connection)
    server.serve(channel)
    channel.hang_up()  # requests under way may still answer on it
