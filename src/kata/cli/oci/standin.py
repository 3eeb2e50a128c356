"""The process whose pid an engine gets: it stands on the host for a process in a guest.

It is a program of its own (``python3 -IS standin.py tty|- WORD ...``, which shows WORD ... where
processes are listed) and holds nothing but a connection to the shim, whose messages
kata.host.shim.standin describes.  It is in the container's namespaces on the host, mostly as the
first process of its pid namespace.  When it has loaded itself it says so (kata.cli.oci.namespaces),
and its root becomes the container's.

It gives its streams away at once, passes signals and the size of its terminal on, and ends with the
guest's process; when either it or the shim is killed, the other side sees the end of the
connection.  Until the shim has connected it ends with whoever has the other end of its leash, a
pipe.

Imports built-in modules only: there is one of it for each container.  Nothing can be loaded later:
that would be the container's file.
"""

import _signal  # type: ignore[import-not-found]  # signal itself loads enum
import _socket
import posix
import select
import sys

# What a process can catch; the rest act on this one as they would on any.
_SIGCHLD, _SIGKILL, _SIGSTOP = 17, 9, 19
_OF_TERMINALS = (21, 22)  # SIGTTIN, SIGTTOU
_SIGWINCH = 28
_NOT_CAUGHT = {_SIGCHLD, _SIGKILL, _SIGSTOP, 32, 33}
_STREAMS = (0, 1, 2)
# What follows the streams.
_LISTENER, _LEASH, _READY = 3, 4, 5
# Numbers of the fields in /proc/PID/stat that say where the arguments are (kata.base.title).
_ARG_START, _ARG_END = 48, 49
_NAME_BYTES = 15
# How long others of its pid namespace may take, which the kernel kills with it.
_OTHERS_MS, _PAUSE_MS = 100, 5
_LOST = 137
_TIOCSCTTY = 0x540E
_ANY_FD = 1 << 20


def main(title: list[str], *, terminal: bool) -> int:
    """Stand for a process until it has ended; returns its exit status."""
    posix.setsid()
    posix.chdir("/")
    posix.closerange(_READY + 1, _ANY_FD)  # what an engine has left open
    wake, wake_write = posix.pipe()
    posix.set_blocking(wake_write, False)
    for signum in range(1, _signal.NSIG):
        if signum not in _NOT_CAUGHT:
            _signal.signal(signum, lambda *_: None)
    # Of processes that enter its pid namespace some become its children.
    _signal.signal(_SIGCHLD, _signal.SIG_IGN)
    _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    if terminal:
        _take_terminal()
    null = posix.open("/dev/null", posix.O_RDWR)
    _set_title(title)
    sys.meta_path.clear()
    posix.write(_READY, b".")
    posix.close(_READY)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, _LISTENER)
    link = _accept(listener, _LEASH)
    if link is None:
        return _LOST
    rights = b"".join(fd.to_bytes(4, "little") for fd in _STREAMS)
    link.sendmsg([b"r"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    _let_go_of_streams(null, terminal)
    status = _pass_on(link, wake)
    if posix.getpid() == 1:
        _wait_for_others()
    return status


def _set_title(words: list[str]) -> None:
    """Show what it stands for; its own command line, which was longer, has the room."""
    data = b"\0".join(word.encode("utf-8", "surrogateescape") for word in words)
    stat = _read("/proc/self/stat")
    # The first of these is the third field.
    fields = stat[stat.rindex(b")") + 1 :].split()
    start, end = int(fields[_ARG_START - 3]), int(fields[_ARG_END - 3])
    fd = posix.open("/proc/self/mem", posix.O_WRONLY)
    posix.pwrite(fd, data[: end - start - 1].ljust(end - start, b"\0"), start)
    posix.close(fd)
    name = data.split(b"\0", 1)[0].rstrip(b"/").split(b"/")[-1]
    fd = posix.open("/proc/self/comm", posix.O_WRONLY)
    posix.write(fd, name[:_NAME_BYTES])
    posix.close(fd)


def _read(path: str) -> bytes:
    fd = posix.open(path, posix.O_RDONLY)
    try:
        return posix.read(fd, 4096)
    finally:
        posix.close(fd)


def _wait_for_others() -> None:
    """Let those that stand for execs end with their own status."""
    nobody = select.poll()
    for _ in range(_OTHERS_MS // _PAUSE_MS):
        try:
            posix.kill(-1, 0)
        except OSError:
            return
        nobody.poll(_PAUSE_MS)


def _accept(listener: _socket.socket, leash: int) -> _socket.socket | None:
    """Wait for the shim; signals before that wait as well."""
    poller = select.poll()
    poller.register(listener.fileno(), select.POLLIN)
    poller.register(leash, select.POLLIN)
    if all(fd == leash for fd, _ in poller.poll()):
        return None
    fd, _ = listener._accept()  # type: ignore[attr-defined]
    listener.close()
    posix.close(leash)
    return _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, fd)


def _pass_on(link: _socket.socket, wake: int) -> int:
    poller = select.poll()
    poller.register(link.fileno(), select.POLLIN)
    poller.register(wake, select.POLLIN)
    while True:
        for fd, _ in poller.poll():
            if fd == wake:
                for signum in posix.read(wake, 4096):
                    _tell(link, signum)
            else:
                words = _receive(link).split()
                return int(words[1]) if words else _LOST


def _tell(link: _socket.socket, signum: int) -> None:
    try:
        if signum == _SIGWINCH:
            size = posix.get_terminal_size(0)
            link.send(b"w %d %d" % (size.lines, size.columns))
        elif signum not in _OF_TERMINALS:
            link.send(b"s %d" % signum)
    except OSError:
        pass  # no terminal, or the shim has gone, which is seen next


def _receive(link: _socket.socket) -> bytes:
    try:
        return link.recv(64)
    except OSError:
        return b""


def _take_terminal() -> None:
    """Make the terminal this session's, so that its changes of size are told."""
    import fcntl

    fcntl.ioctl(0, _TIOCSCTTY, 0)


def _let_go_of_streams(null: int, terminal: bool) -> None:
    """Others see the end of the streams when the shim closes them."""
    for fd in _STREAMS:
        if fd or not terminal:  # the size is asked of it
            posix.dup2(null, fd)
    posix.close(null)


if __name__ == "__main__":
    status = _LOST
    try:
        status = main(sys.argv[2:], terminal=sys.argv[1] == "tty")
    finally:
        # Without the words of an error, for which more would be loaded.
        posix._exit(status)
