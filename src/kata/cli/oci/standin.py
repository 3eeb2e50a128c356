"""The process whose pid an engine gets: it stands on the host for a process in a guest.

It is a program of its own (``python3 -IS standin.py LISTENER LEASH [tty]``) and holds nothing but a
connection to the shim, whose messages kata.host.shim.standin describes.  It gives its streams away
at once, passes signals and the size of its terminal on, and ends with the guest's process; when
either it or the shim is killed, the other side sees the end of the connection.  Until the shim has
connected it ends with whoever has the other end of LEASH, a pipe.

Imports built-in modules only: there is one of it for each container.
"""

import _signal  # type: ignore[import-not-found]  # signal itself loads enum
import _socket
import posix
import select

# What a process can catch; the rest act on this one as they would on any.
_SIGCHLD, _SIGKILL, _SIGSTOP = 17, 9, 19
_OF_TERMINALS = (21, 22)  # SIGTTIN, SIGTTOU
_SIGWINCH = 28
_NOT_CAUGHT = {_SIGCHLD, _SIGKILL, _SIGSTOP, 32, 33}
_STREAMS = (0, 1, 2)
_LOST = 137
_TIOCSCTTY = 0x540E
_ANY_FD = 1 << 20


def main(listener_fd: int, leash: int, terminal: bool) -> int:
    """Stand for a process until it has ended; returns its exit status."""
    posix.setsid()
    posix.chdir("/")
    posix.closerange(max(listener_fd, leash) + 1, _ANY_FD)  # what an engine has left open
    wake, wake_write = posix.pipe()
    posix.set_blocking(wake_write, False)
    for signum in range(1, _signal.NSIG):
        if signum not in _NOT_CAUGHT:
            _signal.signal(signum, lambda *_: None)
    _signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    if terminal:
        _take_terminal()
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET, 0, listener_fd)
    link = _accept(listener, leash)
    if link is None:
        return _LOST
    rights = b"".join(fd.to_bytes(4, "little") for fd in _STREAMS)
    link.sendmsg([b"r"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    _let_go_of_streams(terminal)
    return _pass_on(link, wake)


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


def _let_go_of_streams(terminal: bool) -> None:
    """Others see the end of the streams when the shim closes them."""
    null = posix.open("/dev/null", posix.O_RDWR)
    for fd in _STREAMS:
        if fd or not terminal:  # the size is asked of it
            posix.dup2(null, fd)
    posix.close(null)


if __name__ == "__main__":
    import sys

    posix._exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["tty"]))
