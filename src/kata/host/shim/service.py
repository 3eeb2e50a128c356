"""The Task service: decode a request, call the tasks, encode the answer.  Nothing else."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from kata.base.errors import Code, KataError
from kata.base.version import VERSION
from kata.host.sandbox.rootfs import RootfsMount
from kata.host.sandbox.states import State
from kata.host.shim import stats
from kata.host.shim.creator import TaskRequest
from kata.host.shim.events import to_timestamp
from kata.host.shim.stdio import StdioSpec
from kata.host.shim.tasks import Tasks
from kata.rpc.pb import any_pb2, empty_pb2, runtimeoptions_pb2, task_pb2, task_types_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

    from kata.rpc.server import Method

SERVICE_NAMES = ("containerd.task.v2.Task", "containerd.task.v3.Task")

_STATUS = {
    State.CREATED: task_types_pb2.CREATED,
    State.RUNNING: task_types_pb2.RUNNING,
    State.PAUSED: task_types_pb2.PAUSED,
    State.STOPPED: task_types_pb2.STOPPED,
}
_EMPTY = empty_pb2.Empty()


class TaskService:
    """containerd's face of the tasks, versions 2 and 3."""

    def __init__(self, tasks: Tasks, on_shutdown: Callable[[], None]) -> None:
        """``on_shutdown`` is called when containerd has no more use for the shim."""
        self._tasks = tasks
        self._on_shutdown = on_shutdown

    def methods(self) -> dict[str, Method]:
        """Return the table of methods for the server."""
        return {
            "Create": (task_pb2.CreateTaskRequest, self.create),
            "Start": (task_pb2.StartRequest, self.start),
            "Delete": (task_pb2.DeleteRequest, self.delete),
            "Exec": (task_pb2.ExecProcessRequest, self.exec),
            "ResizePty": (task_pb2.ResizePtyRequest, self.resize_pty),
            "State": (task_pb2.StateRequest, self.state),
            "Pause": (task_pb2.PauseRequest, self.pause),
            "Resume": (task_pb2.ResumeRequest, self.resume),
            "Kill": (task_pb2.KillRequest, self.kill),
            "Pids": (task_pb2.PidsRequest, self.pids),
            "CloseIO": (task_pb2.CloseIORequest, self.close_io),
            "Checkpoint": (task_pb2.CheckpointTaskRequest, self.checkpoint),
            "Connect": (task_pb2.ConnectRequest, self.connect),
            "Shutdown": (task_pb2.ShutdownRequest, self.shutdown),
            "Stats": (task_pb2.StatsRequest, self.stats),
            "Update": (task_pb2.UpdateTaskRequest, self.update),
            "Wait": (task_pb2.WaitRequest, self.wait),
        }

    def create(self, request: task_pb2.CreateTaskRequest) -> task_pb2.CreateTaskResponse:
        """Create a task."""
        if request.checkpoint:
            raise KataError("create from checkpoint: not supported", Code.UNIMPLEMENTED)
        mounts = tuple(
            RootfsMount(mount.type, mount.source, tuple(mount.options)) for mount in request.rootfs
        )
        stdio = StdioSpec(request.stdin, request.stdout, request.stderr, request.terminal)
        pid = self._tasks.create(
            TaskRequest(
                request.id, request.bundle, mounts, stdio, find_config_path(request.options)
            )
        )
        return task_pb2.CreateTaskResponse(pid=pid)

    def start(self, request: task_pb2.StartRequest) -> task_pb2.StartResponse:
        """Start a task or an exec."""
        return task_pb2.StartResponse(pid=self._tasks.start(request.id, request.exec_id))

    def delete(self, request: task_pb2.DeleteRequest) -> task_pb2.DeleteResponse:
        """Delete a task or an exec."""
        pid = self._tasks.pid()
        process = self._tasks.delete(request.id, request.exec_id)
        return task_pb2.DeleteResponse(
            pid=pid,
            exit_status=process.exit_status,
            exited_at=to_timestamp(process.exited_at_ns),
        )

    def exec(self, request: task_pb2.ExecProcessRequest) -> empty_pb2.Empty:
        """Register an exec."""
        stdio = StdioSpec(request.stdin, request.stdout, request.stderr, request.terminal)
        spec = decode_json(request.spec, "Process")
        self._tasks.exec(request.id, request.exec_id, spec, stdio)
        return _EMPTY

    def resize_pty(self, request: task_pb2.ResizePtyRequest) -> empty_pb2.Empty:
        """Resize a terminal."""
        self._tasks.resize(request.id, request.exec_id, request.width, request.height)
        return _EMPTY

    def state(self, request: task_pb2.StateRequest) -> task_pb2.StateResponse:
        """Tell the state of a task or an exec."""
        container = self._tasks.get_container(request.id)
        process = container.get_process(request.exec_id)
        stdio: StdioSpec = process.io.spec  # type: ignore[attr-defined]
        answer = task_pb2.StateResponse(
            id=request.id,
            bundle=container.bundle,
            pid=self._tasks.pid(),
            status=_STATUS[process.state],
            stdin=stdio.stdin,
            stdout=stdio.stdout,
            stderr=stdio.stderr,
            terminal=stdio.terminal,
            exec_id=request.exec_id,
        )
        if process.state is State.STOPPED:
            answer.exit_status = process.exit_status
            answer.exited_at.CopyFrom(to_timestamp(process.exited_at_ns))
        return answer

    def pause(self, request: task_pb2.PauseRequest) -> empty_pb2.Empty:
        """Freeze a task."""
        self._tasks.pause(request.id)
        return _EMPTY

    def resume(self, request: task_pb2.ResumeRequest) -> empty_pb2.Empty:
        """Unfreeze a task."""
        self._tasks.resume(request.id)
        return _EMPTY

    def kill(self, request: task_pb2.KillRequest) -> empty_pb2.Empty:
        """Signal a task or an exec, or every process of a task."""
        self._tasks.kill(request.id, request.exec_id, request.signal, everyone=request.all)
        return _EMPTY

    def pids(self, request: task_pb2.PidsRequest) -> task_pb2.PidsResponse:
        """Tell the one pid the host has of a task."""
        self._tasks.get_container(request.id)
        answer = task_pb2.PidsResponse()
        answer.processes.add(pid=self._tasks.pid())
        return answer

    def close_io(self, request: task_pb2.CloseIORequest) -> empty_pb2.Empty:
        """End the input of a task or an exec."""
        process = self._tasks.get_container(request.id).get_process(request.exec_id)
        if request.stdin:
            process.io.close_stdin()
        return _EMPTY

    def checkpoint(self, request: task_pb2.CheckpointTaskRequest) -> empty_pb2.Empty:
        """Refuse: a virtual machine's container cannot be checkpointed by its engine."""
        raise KataError(f"checkpoint {request.id}: not supported", Code.UNIMPLEMENTED)

    def connect(self, request: task_pb2.ConnectRequest) -> task_pb2.ConnectResponse:
        """Tell the shim's pid and the task's."""
        return task_pb2.ConnectResponse(
            shim_pid=os.getpid(), task_pid=self._tasks.pid(), version=VERSION
        )

    def shutdown(self, request: task_pb2.ShutdownRequest) -> empty_pb2.Empty:
        """End the shim, once no task is left."""
        if self._tasks.is_empty() or request.now:
            self._on_shutdown()
        return _EMPTY

    def stats(self, request: task_pb2.StatsRequest) -> task_pb2.StatsResponse:
        """Tell a task's use of resources."""
        return task_pb2.StatsResponse(stats=stats.render_stats(self._tasks.stats(request.id)))

    def update(self, request: task_pb2.UpdateTaskRequest) -> empty_pb2.Empty:
        """Change a task's limits."""
        self._tasks.update(request.id, decode_json(request.resources, "LinuxResources"))
        return _EMPTY

    def wait(self, request: task_pb2.WaitRequest) -> task_pb2.WaitResponse:
        """Answer when a task or an exec has ended."""
        process = self._tasks.get_container(request.id).get_process(request.exec_id)
        process.wait()
        return task_pb2.WaitResponse(
            exit_status=process.exit_status, exited_at=to_timestamp(process.exited_at_ns)
        )


def decode_json(message: any_pb2.Any, kind: str) -> dict[str, Any]:
    """Decode an object of the OCI specification, which containerd sends as JSON inside an Any."""
    if message.type_url.rpartition("/")[2] != kind:
        raise KataError(
            f"decode request: {message.type_url!r} instead of {kind}", Code.INVALID_ARGUMENT
        )
    try:
        document = json.loads(message.value)
    except ValueError as error:
        raise KataError(f"decode {kind}: {error}", Code.INVALID_ARGUMENT) from error
    if not isinstance(document, dict):
        raise KataError(f"decode {kind}: no JSON object", Code.INVALID_ARGUMENT)
    return document


def find_config_path(options: any_pb2.Any) -> str:
    """Return the configuration file that containerd's runtime options name, or nothing."""
    if options.type_url.rpartition("/")[2] != "runtimeoptions.v1.Options":
        return ""
    return runtimeoptions_pb2.Options.FromString(options.value).config_path
