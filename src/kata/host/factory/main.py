"""kata-factory: a process per node that has the shim's code loaded, forks shims, makes templates.

It starts when the first sandbox wants a template and ends when nobody has needed it for long.
"""

from __future__ import annotations

import gc
import os
import socket
import sys

from kata.base import fdpass, title
from kata.base.errors import KataError, describe_error
from kata.base.log import Logger
from kata.host.factory import launcher
from kata.host.template.address import SOCKET

_USAGE = """\
usage: kata-factory [--detach | --end]
       kata-factory --init | --status [--json] | --destroy [--config FILE]
  --detach   go to the background, when requests can come
  --end      end the factory that runs, and machines that wait; sandboxes go on
  --init     make the template of a sandbox without limits, and start the factory
  --status   say whether it runs, which machines wait and which templates there are
  --destroy  end it and remove all templates
"""
_ASKED = ("--end", "--init", "--status", "--destroy")
_IDLE_S = 3600.0
_BACKLOG = 256
_LOG = "/run/kata/factory.log"


def main() -> int:
    """Run the factory; returns the exit status."""
    arguments = [word for word in sys.argv[1:] if word.strip()]
    if arguments and arguments[0] in _ASKED:
        return _ask(arguments)
    if arguments not in ([], ["--detach"]):
        print(_USAGE, end="", file=sys.stderr)
        return 2
    if title.PADDING not in sys.argv:
        # Once more, with room for the command lines of forks.
        os.execv(sys.executable, [sys.executable, "-IS", *sys.argv, title.PADDING])
    try:
        listener = listen(SOCKET)
    except OSError as error:
        print(f"kata-factory: {describe_error(error)}", file=sys.stderr)
        return 1
    if listener is None:
        print("kata-factory: another one runs", file=sys.stderr)
        return 0 if arguments else 1
    if arguments and os.fork() > 0:
        return 0
    if arguments:
        _detach()
    title.set_title([sys.executable, "-IS", *sys.argv[:-1]])
    del sys.argv[1:]
    serve(listener)
    return 0


def serve(listener: socket.socket) -> None:
    """Load what forks need, and serve."""
    log = Logger(lambda line: os.write(2, line), pid=os.getpid())
    _preload()
    from kata.host.factory.server import Factory

    gc.collect()
    gc.freeze()
    log.info("factory ready")
    own_code = os.path.realpath(launcher.__file__)
    Factory(listener, own_code, _IDLE_S, log).serve()
    os.unlink(SOCKET)


def listen(path: str) -> socket.socket | None:
    """Return a listening socket; None when another factory has it."""
    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    own = f"{path}.{os.getpid()}"
    mask = os.umask(0o077)
    try:
        sock.bind(own)
        sock.listen(_BACKLOG)
        try:
            fdpass.connect(path).close()
        except OSError:
            os.rename(own, path)  # what was there is nobody's
            return sock
        os.unlink(own)
    finally:
        os.umask(mask)
    sock.close()
    return None


def _ask(arguments: list[str]) -> int:
    """Do what concerns a factory that runs; returns the exit status."""
    from kata.host.factory import admin

    verb, *rest = arguments
    config = ""
    if rest[-2:-1] == ["--config"]:
        config = rest[-1]
        del rest[-2:]
    if rest not in ([], ["--json"]) or (rest and verb != "--status"):
        print(_USAGE, end="", file=sys.stderr)
        return 2
    try:
        if verb == "--init":
            print(admin.init(config))
        elif verb == "--status":
            status = admin.find_status(config)
            print(status.to_json() if rest else status.render())
        elif verb == "--destroy":
            admin.destroy(config)
        else:
            admin.end()
    except (KataError, OSError) as error:
        print(f"kata-factory: {describe_error(error)}", file=sys.stderr)
        return 1
    return 0


def _detach() -> None:
    os.setsid()
    os.chdir("/")
    null = os.open("/dev/null", os.O_RDWR)
    log = os.open(_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    for number, fd in enumerate((null, log, log)):
        os.dup2(fd, number)
    os.close(null)
    os.close(log)


def _preload() -> None:
    """Load what forks will use, and what these would import late: each would have it for itself."""
    import tomllib  # noqa: F401

    from kata.host.factory import build  # noqa: F401
    from kata.host.shim import daemon, delete, main, start  # noqa: F401
    from kata.oci import annotations, bundle  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
