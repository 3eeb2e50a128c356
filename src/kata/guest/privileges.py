"""What a process may do: capabilities, limits, user, system call filter, set in the caller itself.

For a process that is about to become a container's: each of these cannot be taken back.
Sources: capabilities(7), prctl(2), seccomp(2); the order is runc's.
"""

from __future__ import annotations

import ctypes
import os

from kata.base import syscalls
from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# linux/capability.h, in the order of their numbers.
CAPABILITIES = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip
# asm-generic/resource.h, in the order of their numbers.
LIMITS = (
    "CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
    "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME",
)  # fmt: skip

# linux/prctl.h
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
# _LINUX_CAPABILITY_VERSION_3
_VERSION = 0x20080522
_FILTER_BYTES = 8  # struct sock_filter
_EINVAL = 22

_libc = ctypes.CDLL(None, use_errno=True)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filters", ctypes.c_void_p))


def numbers_of(names: Iterable[str]) -> frozenset[int]:
    """Return the numbers of capabilities.  Raises INVALID_ARGUMENT for an unknown name."""
    found = set()
    for name in names:
        plain = name.upper().removeprefix("CAP_")
        if plain not in CAPABILITIES:
            raise KataError(f"set capabilities: unknown capability {name}", Code.INVALID_ARGUMENT)
        found.add(CAPABILITIES.index(plain))
    return frozenset(found)


def limit_number(name: str) -> int:
    """Return a limit's number.  Raises INVALID_ARGUMENT for an unknown name."""
    plain = name.upper().removeprefix("RLIMIT_")
    if plain not in LIMITS:
        raise KataError(f"set limits: unknown limit {name}", Code.INVALID_ARGUMENT)
    return LIMITS.index(plain)


def hide() -> None:
    """Keep the container's processes from this one's memory and files until it executes."""
    syscalls.prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Let no program that is executed from now on gain privileges."""
    syscalls.prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding(kept: frozenset[int]) -> None:
    """Take from the bounding set what is not in ``kept``."""
    for number in range(64):
        if number in kept:
            continue
        try:
            syscalls.prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == _EINVAL:  # beyond the kernel's last
                return
            raise


def switch_user(uid: int, gid: int, groups: list[int]) -> None:
    """Become a user, and keep the permitted capabilities for ``set_capabilities``."""
    syscalls.prctl(_PR_SET_KEEPCAPS, 1)
    try:
        os.setgroups(groups)
    except PermissionError:
        if groups:  # a user namespace may forbid to leave groups
            raise
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    syscalls.prctl(_PR_SET_KEEPCAPS, 0)


def set_capabilities(
    effective: frozenset[int],
    permitted: frozenset[int],
    inheritable: frozenset[int],
    ambient: frozenset[int],
) -> None:
    """Set the caller's capabilities.  An ambient one that may not be is left out, as by crun."""
    sets = (_Set * 2)()
    for part in (0, 1):
        sets[part].effective = _word(effective, part)
        sets[part].permitted = _word(permitted, part)
        sets[part].inheritable = _word(inheritable, part)
    if _libc.capset(ctypes.byref(_Header(_VERSION, 0)), sets) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"set capabilities: {os.strerror(number)}")
    syscalls.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for number in ambient & permitted & inheritable:
        syscalls.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number)


def filter_calls(program: bytes) -> None:
    """Load a seccomp filter, BPF as the kernel takes it."""
    buffer = ctypes.create_string_buffer(program, len(program))
    filters = _Program(len(program) // _FILTER_BYTES, ctypes.addressof(buffer))
    syscalls.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(filters))


def _word(numbers: frozenset[int], part: int) -> int:
    return sum(1 << (number - 32 * part) for number in numbers if number // 32 == part)
