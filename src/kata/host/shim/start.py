"""``start``: make the daemon, tell containerd its address, and leave.

The daemon is a fork of this small process; it loads the rest while containerd connects.
"""

from __future__ import annotations

import os
import sys

from kata.base.errors import Code, KataError
from kata.base.ids import check_id
from kata.host.shim import address

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.host.shim.main import Arguments


def start(arguments: Arguments) -> None:
    """Start a shim for ``-id``; prints its address.  Returns in the starting process only."""
    check_id("container", arguments.id)
    path = address.socket_path(arguments.address, arguments.namespace, arguments.id)
    listener = address.listen(path)
    bootstrap = address.render_bootstrap(path, _max_version())
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        _become_daemon()
        from kata.host.shim.daemon import serve

        serve(arguments, listener, path, ready_fd=writer)
        os._exit(0)
    os.close(writer)
    # The daemon is in a mount namespace of its own, and in no state that could fail, before
    # containerd hears of it.
    if os.read(reader, 1) != b"1":
        os.unlink(path)
        raise KataError("start shim: the daemon ended at once; see the log", Code.INTERNAL)
    # containerd 1.6 finds a running shim again by this file.
    with open("address", "w") as file:
        file.write(f"unix://{path}")
    sys.stdout.write(bootstrap)
    sys.stdout.flush()


def _max_version() -> int:
    text = os.environ.get("MAX_SHIM_VERSION", "")
    return int(text) if text.isdigit() else 0


def _become_daemon() -> None:
    os.setsid()
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
