"""``start``: make the daemon, tell containerd its address, and leave.

The daemon is a fork of this small process; it loads the rest while containerd connects.
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError, describe_error
from kata.base.ids import check_id
from kata.host.shim import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

    from kata.host.shim.arguments import Arguments

_READY = b"\x01"
# A pipe takes this at once (PIPE_BUF), and a reason longer than this helps nobody.
_MESSAGE_BYTES = 4096


def start(arguments: Arguments) -> None:
    """Start a shim for ``-id``; prints its address.  Returns in the starting process only."""
    check_id("container", arguments.id)
    sandbox_id = _find_sandbox(arguments)
    path = address.socket_path(arguments.address, arguments.namespace, sandbox_id)
    if sandbox_id != arguments.id:
        _answer_for_pod(arguments.id, sandbox_id, path)
        return
    listener = address.listen(path)
    reader, writer = os.pipe()
    if os.fork() == 0:
        _become_daemon({listener.fileno(), writer})
        os._exit(_run_daemon(arguments, listener, path, ReadyPipe(writer)))
    os.close(writer)
    # The daemon is in a mount namespace of its own, and in no state that could fail, before
    # containerd hears of it.
    word = os.read(reader, _MESSAGE_BYTES)
    if word != _READY:
        address.remove(path)
        reason = word.decode("utf-8", "replace") or "the daemon was killed"
        raise KataError(f"start shim: {reason}", Code.INTERNAL)
    _answer(path)


class ReadyPipe:
    """Tells the starting process, once, how the daemon's start went.  Owns its descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def tell(self, word: bytes = _READY) -> None:
        """Say that the daemon serves, or why it does not."""
        if self._fd >= 0:
            os.write(self._fd, word)
            os.close(self._fd)
            self._fd = -1


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
    """Tell containerd the address; 1.6 finds a running shim again by the file."""
    with open("address", "w") as file:
        file.write(f"unix://{path}")
    sys.stdout.write(address.render_bootstrap(path, _max_version()))
    sys.stdout.flush()


def _run_daemon(arguments: Arguments, listener: socket.socket, path: str, ready: ReadyPipe) -> int:
    try:
        from kata.host.shim.daemon import serve

        serve(arguments, listener, path, ready.tell)
    except Exception as error:  # noqa: BLE001  # the starting process tells it
        address.remove(path)
        try:
            ready.tell(describe_error(error).encode()[:_MESSAGE_BYTES])
        except OSError:
            pass  # the starting process was killed: nobody will know this daemon
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
