"""virtiofsd: the C one of QEMU 7.2 and the Rust one; which it is, it says when asked."""

from __future__ import annotations

import enum
import os
import socket
import subprocess
from dataclasses import dataclass

from kata.base.descriptors import find_file_limit
from kata.base.errors import Code, KataError
from kata.base.processes import Child, Spawner

# Extended attributes of the guest are the host's, but that the host's kernel heeds trusted.* and
# security.*: the guest's are kept there as user.virtiofs.*, and the guest sees none of the host's.
# File capabilities are the host's own: images have them, and the host's kernel drops them when the
# file is written to (CVE-2021-20263 is about those that were kept under another name).
_XATTR_MAP = "".join(
    (
        ":ok:all:security.capability:security.capability:",
        ":prefix:all:trusted.:user.virtiofs.:",
        ":prefix:all:security.:user.virtiofs.:",
        ":bad:client:user.virtiofs.::",
        ":bad:server::trusted.:",
        ":bad:server::security.:",
        ":ok:all:::",
    )
)


class Flavour(enum.Enum):
    """The two implementations, which differ in their command lines."""

    C = "c"
    RUST = "rust"


@dataclass(frozen=True, slots=True)
class ShareSpec:
    """What to serve and how; ``extra_args`` go last, as the operator wrote them."""

    binary: str
    folder: str
    cache: str
    extra_args: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """A running virtiofsd, the socket a machine connects with, and the end of its messages."""

    child: Child
    machine_fd: int
    stderr_fd: int
    flavour: Flavour
    max_files: int


def find_flavour(binary: str) -> Flavour:
    """Ask a virtiofsd what it is.

    The C one answers ``virtiofsd version 7.2.x`` or ``using FUSE kernel interface``, the Rust one
    ``virtiofsd 1.13.0`` (before 1.5 ``virtiofsd backend 1.4.0``).
    """
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
    except FileNotFoundError as error:
        raise KataError(
            f"start virtiofsd: {binary} does not exist",
            Code.FAILED_PRECONDITION,
            "install virtiofsd or set virtio_fs_daemon in [hypervisor.qemu]",
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KataError(f"start virtiofsd {binary}: {error}", Code.FAILED_PRECONDITION) from error
    text = answer.stdout + answer.stderr
    if "FUSE" in text or "virtiofsd version" in text:
        return Flavour.C
    if text.startswith("virtiofsd "):
        return Flavour.RUST
    raise KataError(
        f"start virtiofsd: {binary} --version says {text[:80]!r}", Code.FAILED_PRECONDITION
    )


def plan_arguments(spec: ShareSpec, flavour: Flavour, fd: int, max_files: int) -> list[str]:
    """Return the command line; ``fd`` is the child's number of the listening socket."""
    if flavour is Flavour.C:
        argv = [
            spec.binary,
            f"--fd={fd}",
            "-f",
            "-o",
            f"source={spec.folder}",
            "-o",
            f"cache={_translate_cache(spec.cache, flavour)}",
            "-o",
            "announce_submounts",
            "-o",
            "sandbox=namespace",
        ]
    else:
        argv = [
            spec.binary,
            f"--fd={fd}",
            f"--shared-dir={spec.folder}",
            f"--cache={_translate_cache(spec.cache, flavour)}",
            "--announce-submounts",
            "--sandbox=namespace",
            "--xattr",
            f"--xattrmap={_XATTR_MAP}",
            "--inode-file-handles=prefer",
        ]
    return [*argv, f"--rlimit-nofile={max_files}", *spec.extra_args]


def _translate_cache(mode: str, flavour: Flavour) -> str:
    """Return a cache mode in a daemon's own words; refuse one that it does not have."""
    if flavour is Flavour.RUST:
        return "never" if mode == "none" else mode
    if mode == "metadata":
        raise KataError(
            "start virtiofsd: the C implementation has no cache mode 'metadata'",
            Code.INVALID_ARGUMENT,
            'set virtio_fs_cache to "auto", "always" or "never", or use the Rust virtiofsd',
        )
    return "none" if mode == "never" else mode


def start_share(spec: ShareSpec, spawner: Spawner, socket_path: str) -> Share:
    """Start virtiofsd on an inherited listening socket and connect to it.

    The socket's file exists only for the moment of connecting, so none is left behind.
    """
    flavour = find_flavour(spec.binary)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    machine = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stderr, stderr_child = os.pipe()
    try:
        listener.bind(socket_path)
        try:
            listener.listen(1)
            machine.connect(socket_path)
        finally:
            os.unlink(socket_path)
        max_files = find_file_limit()
        argv = plan_arguments(spec, flavour, 3, max_files)
        child = spawner.spawn(argv, {1: stderr_child, 2: stderr_child, 3: listener.fileno()})
    except BaseException:
        machine.close()
        os.close(stderr)
        raise
    finally:
        listener.close()
        os.close(stderr_child)
    return Share(child, machine.detach(), stderr, flavour, max_files)
