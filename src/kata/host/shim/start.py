"""``start``: make the daemon, tell containerd its address, and leave.

The daemon is a fork of this small process; it loads the rest while containerd connects.
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError, describe_error
from kata.base.ids import check_id
from kata.host.shim import address
from kata.host.shim.handover import Daemon, make_pair

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from kata.host.sandbox.spare import Spare
    from kata.host.shim.arguments import Arguments
    from kata.host.shim.handover import Starter


def start(arguments: Arguments) -> Daemon | None:
    """Start a shim for ``-id`` and print its address.  Returns in the starting process only.

    The daemon that is returned ends unless it is told that the engine knows it; None when a pod's
    shim runs already.
    """
    check_id("container", arguments.id)
    sandbox_id = _find_sandbox(arguments)
    path = address.socket_path(arguments.address, arguments.namespace, sandbox_id)
    if sandbox_id != arguments.id:
        _answer_for_pod(arguments.id, sandbox_id, path)
        return None
    listener = address.listen(path)
    daemon, starter = make_pair()
    if os.fork() == 0:
        _become_daemon({listener.fileno(), starter.fileno()})
        os._exit(_run_daemon(arguments, listener, path, starter))
    starter.close()
    # The daemon is in a mount namespace of its own, and in no state that could fail, before
    # containerd hears of it.
    try:
        daemon.wait_ready()
    except KataError:
        address.remove(path)
        raise
    _answer(path)
    return daemon


def _find_sandbox(arguments: Arguments) -> str:
    """Return whose shim the container's is: its pod's, or its own."""
    from kata.oci.annotations import ContainerKind, find_placement
    from kata.oci.bundle import load_annotations

    # Without a bundle the shim itself tells, when the task is created.
    if not os.path.exists("config.json"):
        return arguments.id
    placement = find_placement(arguments.id, load_annotations("."))
    return placement.sandbox_id if placement.kind is ContainerKind.CONTAINER else arguments.id


def _answer_for_pod(container_id: str, sandbox_id: str, path: str) -> None:
    check_id("sandbox", sandbox_id)
    if not address.is_answering(path):
        raise KataError(
            f"start shim for {container_id}: its sandbox {sandbox_id} does not run", Code.NOT_FOUND
        )
    _answer(path)


def _answer(path: str) -> None:
    """Tell containerd the address."""
    sys.stdout.write(render_answer(path))
    sys.stdout.flush()


def render_answer(path: str) -> str:
    """Return what containerd is told; 1.6 finds a running shim again by a file, which is made."""
    with open("address", "w") as file:
        file.write(f"unix://{path}")
    return address.render_bootstrap(path, _max_version())


def become_shim(arguments: Arguments, starter: Starter, spare: Spare) -> None:
    """Be the shim for ``-id``, with a machine that runs already; returns when it has ended."""
    try:
        check_id("container", arguments.id)
        path = address.socket_path(arguments.address, arguments.namespace, arguments.id)
        listener = address.listen(path)
    except KataError as error:
        starter.tell_failure(describe_error(error))
        spare.close()
        return
    _run_daemon(arguments, listener, path, starter, spare)


def _run_daemon(
    arguments: Arguments,
    listener: socket.socket,
    path: str,
    starter: Starter,
    spare: Spare | None = None,
) -> int:
    try:
        from kata.host.shim.daemon import serve

        serve(arguments, listener, path, starter, spare)
    except Exception as error:  # noqa: BLE001  # the starting process tells it
        address.remove(path)
        starter.tell_failure(describe_error(error))
        return 1
    return 0


def _max_version() -> int:
    text = os.environ.get("MAX_SHIM_VERSION", "")
    return int(text) if text.isdigit() else 0


def _become_daemon(kept: set[int]) -> None:
    os.setsid()
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:
        if number > 2 and number not in kept:
            try:
                os.close(number)
            except OSError:
                pass  # the one that listed them
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
