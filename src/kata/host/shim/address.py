"""Where a shim listens: the socket's path, and what containerd is told of it."""

from __future__ import annotations

import os
import socket

from kata.base.errors import Code, KataError

# containerd's own folder for shims' sockets.
FOLDER = "/run/containerd/s"
_SCHEME = "unix://"


def socket_path(containerd_address: str, namespace: str, sandbox_id: str) -> str:
    """Return the path for one sandbox of one containerd (the scheme all shims use)."""
    from hashlib import sha256

    name = os.path.join(containerd_address, namespace, sandbox_id)
    return f"{FOLDER}/{sha256(name.encode()).hexdigest()}"


def listen(path: str) -> socket.socket:
    """Return a listening socket; ALREADY_EXISTS when a live shim has that path."""
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o077)
    try:
        try:
            sock.bind(path)
        except OSError:
            if is_answering(path):
                raise KataError(
                    f"listen on {path}: a shim of that id is running", Code.ALREADY_EXISTS
                ) from None
            os.unlink(path)  # left by a shim that was killed
            sock.bind(path)
    finally:
        os.umask(mask)
    sock.listen(64)
    return sock


def remove(path: str) -> None:
    """Remove a socket, if it is still there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass  # somebody cleaned up before us


def is_answering(path: str) -> bool:
    """Return whether something accepts connections at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def render_bootstrap(path: str, max_version: int) -> str:
    """Return what ``start`` prints: an address, or JSON for containerd 2.0 and later.

    ``max_version`` is the newest version of the Task service that the engine knows; 0 when it does
    not say.  An address means version 2: containerd 1.7, which takes either, and CRI-O, which says
    what 1.7 does (it starts shims by its library) but takes an address only.
    """
    if max_version < 3:
        return _SCHEME + path
    return f'{{"version":3,"address":"{_SCHEME}{path}","protocol":"ttrpc"}}'
