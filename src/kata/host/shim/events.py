"""Tell containerd what happens to tasks: one queue, one thread, in the order of publishing."""

from __future__ import annotations

import queue
import socket
import threading
import time

from google.protobuf.message import Message

from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from kata.rpc.pb import any_pb2, containerd_types_pb2, empty_pb2, events_pb2, timestamp_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.host.sandbox.process import Process
    from kata.host.shim.creator import TaskRequest

_FORWARD = "containerd.services.events.ttrpc.v1.Events/Forward"
_TIMEOUT_S = 5.0
# containerd may be restarting: an event is offered again for this long, then given up.
_PATIENCE_S = 30.0
_RETRY_S = 0.5

_TOPICS = {
    "TaskCreate": "/tasks/create",
    "TaskStart": "/tasks/start",
    "TaskOOM": "/tasks/oom",
    "TaskExit": "/tasks/exit",
    "TaskDelete": "/tasks/delete",
    "TaskExecAdded": "/tasks/exec-added",
    "TaskExecStarted": "/tasks/exec-started",
    "TaskPaused": "/tasks/paused",
    "TaskResumed": "/tasks/resumed",
}


def to_timestamp(time_ns: int) -> timestamp_pb2.Timestamp:
    """Convert nanoseconds since the epoch."""
    return timestamp_pb2.Timestamp(seconds=time_ns // 10**9, nanos=time_ns % 10**9)


class Publisher:
    """Publish events; without an address (CRI-O gives none) they are only logged."""

    def __init__(self, address: str, namespace: str, log: Logger) -> None:
        self._address = address
        self._namespace = namespace
        self._log = log
        self._queue: queue.SimpleQueue[events_pb2.ForwardRequest | None] = queue.SimpleQueue()
        self._client: Client | None = None
        self._thread = threading.Thread(target=self._run, name="events", daemon=True)
        self._thread.start()

    def publish(self, event: Message) -> None:
        """Queue an event; its time is now.  Those of the guest itself are no engine's business."""
        if not event.container_id:  # type: ignore[attr-defined]
            return
        kind = event.DESCRIPTOR
        envelope = containerd_types_pb2.Envelope(
            timestamp=to_timestamp(time.time_ns()),
            namespace=self._namespace,
            topic=_TOPICS[kind.name],
            event=any_pb2.Any(type_url=kind.full_name, value=event.SerializeToString()),
        )
        self._queue.put(events_pb2.ForwardRequest(envelope=envelope))

    def close(self, timeout_s: float) -> None:
        """Send what is queued and end."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            if self._address:
                self._deliver(request)
            else:
                self._log.info("event", topic=request.envelope.topic)
        self._hang_up()

    def _hang_up(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _deliver(self, request: events_pb2.ForwardRequest) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._forward(request)
                return
            except (KataError, OSError) as error:
                self._hang_up()
                if time.monotonic() > give_up:
                    self._log.warning(
                        "event lost", topic=request.envelope.topic, error=describe_error(error)
                    )
                    return
                time.sleep(_RETRY_S)

    def _forward(self, request: events_pb2.ForwardRequest) -> None:
        if self._client is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(self._address.removeprefix("unix://"))
            except OSError:
                sock.close()
                raise
            self._client = Client(Channel.from_socket(sock))
        self._client.call(_FORWARD, request, empty_pb2.Empty, _TIMEOUT_S)


def render_create(request: TaskRequest, pid: int) -> events_pb2.TaskCreate:
    """Return what is told of a task that was created."""
    stdio = request.stdio
    return events_pb2.TaskCreate(
        container_id=request.id,
        bundle=request.bundle,
        rootfs=[
            containerd_types_pb2.Mount(
                type=mount.fstype, source=mount.source, options=mount.options
            )
            for mount in request.rootfs
        ],
        io=events_pb2.TaskIO(
            stdin=stdio.stdin, stdout=stdio.stdout, stderr=stdio.stderr, terminal=stdio.terminal
        ),
        pid=pid,
    )


def render_exit(process: Process, pid: int) -> events_pb2.TaskExit:
    """Return what is told of the end of a task's process, or of an exec."""
    return events_pb2.TaskExit(
        container_id=process.container_id,
        id=process.exec_id or process.container_id,
        pid=pid,
        exit_status=process.exit_status,
        exited_at=to_timestamp(process.exited_at_ns),
    )


def render_delete(process: Process, pid: int) -> events_pb2.TaskDelete:
    """Return what is told of a task that was deleted; ``process`` is its own."""
    return events_pb2.TaskDelete(
        container_id=process.container_id,
        pid=pid,
        exit_status=process.exit_status,
        exited_at=to_timestamp(process.exited_at_ns),
    )
