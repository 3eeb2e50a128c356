"""The agent as a plain process on a host, for tests and tools: ``python -m kata.guest.main``.

It serves the address in KATA_AGENT_SERVER_ADDR (``unix://@name``, ``unix:///path`` or
``vsock://-1:1024``) and leaves the machine's own settings alone.  KATA_AGENT_CGROUP_MANAGER is
crun's option of that name; KATA_AGENT_RUNTIME=crun lets crun start every process;
KATA_AGENT_LOG_LEVEL=debug logs more.
"""

from __future__ import annotations

import os
import sys
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.guest import signals, sockets
from kata.guest.agent import Agent
from kata.guest.forker import start_forker
from kata.guest.guest import Guest
from kata.guest.reaper import Reaper, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket


def main() -> int:
    """Serve until SIGTERM or DestroySandbox; return the exit status."""
    log = Logger(lambda line: os.write(2, line))
    log.debug_enabled = os.environ.get("KATA_AGENT_LOG_LEVEL") == "debug"
    try:
        listener = listen(os.environ.get("KATA_AGENT_SERVER_ADDR", "vsock://-1:1024"))
    except (KataError, OSError) as error:
        print(f"kata-agent: {error}", file=sys.stderr)
        return 1
    block_signals()
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    forker = None if os.environ.get("KATA_AGENT_RUNTIME") == "crun" else start_forker()
    reaper = Reaper(log)
    reaper.start()
    guest = Guest(is_ours=False)
    guest.set_ready()
    agent = Agent(guest, reaper, log, forker)
    agent.cgroup_manager = os.environ.get("KATA_AGENT_CGROUP_MANAGER", agent.cgroup_manager)
    threading.Thread(
        target=agent.serve_listener, args=(listener,), name="listener", daemon=True
    ).start()
    log.info("agent ready", pid=os.getpid())
    signals.wait((signals.SIGTERM, signals.SIGINT))
    agent.sandbox().destroy()
    return 0


def listen(address: str) -> _socket.socket:
    """Return a listening socket for an address.  Raises KataError for one of another form."""
    scheme, _, rest = address.partition("://")
    if scheme == "unix" and rest:
        return sockets.listen_unix(rest)
    port = rest.rpartition(":")[2]
    if scheme == "vsock" and port.isdecimal():
        return sockets.listen_vsock(int(port))
    raise KataError(
        f"listen on {address!r}: not unix://@name, unix:///path or vsock://-1:port",
        Code.INVALID_ARGUMENT,
    )


if __name__ == "__main__":
    sys.exit(main())
