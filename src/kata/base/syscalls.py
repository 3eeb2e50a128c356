"""System calls that Python's os module lacks, with errors as OSError.

Flags keep the kernel's names (sys/mount.h, linux/sched.h, sys/prctl.h, linux/reboot.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_SYNCHRONOUS = 16
MS_REMOUNT = 32
MS_MANDLOCK = 64
MS_DIRSYNC = 128
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_MOVE = 8192
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

CLONE_FS = 0x00000200
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36

RB_POWER_OFF = 0x4321FEDC
RB_AUTOBOOT = 0x01234567

# x86_64
_SYS_CLONE = 56
_SYS_KEYCTL = 250
_SYS_FINIT_MODULE = 313
_SYS_BPF = 321
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_CLOSE_RANGE = 436
_SYS_OPENAT2 = 437
_SYS_MOUNT_SETATTR = 442
_OPEN_TREE_CLONE = 1
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_CLOSE_RANGE_CLOEXEC = 4
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_SIGCHLD = 17
_KEYCTL_JOIN_SESSION_KEYRING = 1
MOUNT_ATTR_RDONLY = 0x00000001
MOUNT_ATTR_NOSUID = 0x00000002
MOUNT_ATTR_NODEV = 0x00000004
MOUNT_ATTR_NOEXEC = 0x00000008
MOUNT_ATTR_ATIME = 0x00000070  # the mask of the three; relatime is 0
MOUNT_ATTR_NOATIME = 0x00000010
MOUNT_ATTR_STRICTATIME = 0x00000020
MOUNT_ATTR_NODIRATIME = 0x00000080
_MOUNT_ATTR_IDMAP = 0x00100000
# linux/timex.h, linux/timerfd.h
_ADJ_SETOFFSET = 0x0100
_ADJ_NANO = 0x2000
_ADJ_OFFSET_SINGLESHOT = 0x8001
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_NEVER_S = 1 << 33
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_libc = ctypes.CDLL(None, use_errno=True)
# Calls of this one keep the interpreter's lock.
_python = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """Call mount(2).  Raises OSError that names source and target."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(result, f"mount {source or fstype} on {target}")


def umount(target: str, flags: int = 0) -> None:
    """Call umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), f"unmount {target}")


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Call setns(2); borrows the descriptor."""
    _check(_libc.setns(fd, kind), "setns")


def pivot_root(new_root: str, put_old: str) -> None:
    """Call pivot_root(2)."""
    _check(_libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)), f"pivot_root {new_root}")


def fork_sibling() -> int:
    """Fork a process whose parent is the caller's own (clone(2), CLONE_PARENT).

    For a caller with one thread.  What os.fork does around the call is done here.
    """
    _python.PyOS_BeforeFork()
    pid = int(_python.syscall(_SYS_CLONE, CLONE_PARENT | _SIGCHLD, 0, 0, 0, 0))
    if pid == 0:
        _python.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    _python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid


def prctl(option: int, second: int, third: int = 0) -> None:
    """Call prctl(2)."""
    result = _libc.prctl(option, ctypes.c_ulong(second), ctypes.c_ulong(third), 0, 0)
    _check(result, f"prctl {option}")


def set_domain_name(name: str) -> None:
    """Call setdomainname(2)."""
    data = name.encode()
    _check(_libc.setdomainname(data, len(data)), "set domain name")


def join_session_keyring(name: str) -> None:
    """Give the caller a session keyring of its own (keyctl(2))."""
    result = _libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, name.encode())
    _check(result, "join session keyring")


def bpf(command: int, attributes: ctypes.Structure) -> int:
    """Call bpf(2)."""
    size = ctypes.sizeof(attributes)
    return _check(_libc.syscall(_SYS_BPF, command, ctypes.byref(attributes), size), "bpf")


def close_at_exec(first: int) -> None:
    """Let no descriptor from ``first`` on outlive an exec (close_range(2), Linux 5.11)."""
    flags = _CLOSE_RANGE_CLOEXEC
    _check(_libc.syscall(_SYS_CLOSE_RANGE, first, 0xFFFFFFFF, flags), "close_range")


def reboot(command: int) -> None:
    """Call reboot(2)."""
    _check(_libc.reboot(ctypes.c_int(command & 0xFFFFFFFF)), "reboot")


def finit_module(fd: int, parameters: str = "") -> None:
    """Call finit_module(2); borrows the descriptor."""
    _check(_libc.syscall(_SYS_FINIT_MODULE, fd, parameters.encode(), 0), "finit_module")


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def clone_mount(path: str, propagation: int, *, recursive: bool) -> int:
    """Return a detached copy of a mount; the caller owns the descriptor.

    ``propagation`` is MS_SLAVE or MS_PRIVATE; 0 leaves it in the group of the original.
    open_tree(2) and mount_setattr(2), Linux 5.12.
    """
    deep = _AT_RECURSIVE if recursive else 0
    flags = _OPEN_TREE_CLONE | os.O_CLOEXEC | deep
    tree = _check(
        _libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, os.fsencode(path), flags), f"clone mount {path}"
    )
    try:
        if propagation:
            _set_mount(tree, _MountAttr(propagation=propagation), deep, f"propagation of {path}")
    except OSError:
        os.close(tree)
        raise
    return tree


def statfs_type(path: str) -> int:
    """Return the number of a path's kind of file system (statfs(2))."""
    # Its struct begins with that, and has 120 bytes.
    answer = (ctypes.c_long * 32)()
    _check(_libc.statfs(os.fsencode(path), answer), f"look at the file system of {path}")
    return int(answer[0])


def make_mount(fstype: str, options: Iterable[str], attributes: int) -> int:
    """Return a new file system's mount (MOUNT_ATTR_*), detached; the caller owns the descriptor.

    ``options`` are the file system's own (fsopen(2), fsconfig(2), fsmount(2); Linux 5.2).
    """
    what = f"make {fstype}"
    fs = _check(_libc.syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC), what)
    try:
        for option in options:
            key, _, text = option.partition("=")
            command = _FSCONFIG_SET_STRING if text else _FSCONFIG_SET_FLAG
            value = text.encode() if text else None
            _check(
                _libc.syscall(_SYS_FSCONFIG, fs, command, key.encode(), value, 0),
                f"{what} with {option}",
            )
        _check(_libc.syscall(_SYS_FSCONFIG, fs, _FSCONFIG_CMD_CREATE, None, None, 0), what)
        return _check(_libc.syscall(_SYS_FSMOUNT, fs, _FSMOUNT_CLOEXEC, attributes), what)
    finally:
        os.close(fs)


def map_mount(tree_fd: int, users_fd: int, *, recursive: bool) -> None:
    """Map a detached mount's owners by a user namespace (mount_setattr(2)); borrows both."""
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=users_fd)
    _set_mount(tree_fd, attributes, _AT_RECURSIVE if recursive else 0, "map of owners")


def protect_mount(tree_fd: int, *, recursive: bool) -> None:
    """Make a detached mount read-only (mount_setattr(2)); borrows it."""
    restrict_mount(tree_fd, MOUNT_ATTR_RDONLY, 0, recursive=recursive)


def restrict_mount(tree_fd: int, added: int, taken: int, *, recursive: bool) -> None:
    """Give a mount attributes (MOUNT_ATTR_*) and take others away; borrows its descriptor."""
    attributes = _MountAttr(attr_set=added, attr_clr=taken)
    _set_mount(tree_fd, attributes, _AT_RECURSIVE if recursive else 0, "attributes of mount")


def propagate_mount(tree_fd: int, propagation: int, *, recursive: bool) -> None:
    """Set a mount's propagation: MS_PRIVATE, MS_SLAVE or MS_SHARED; borrows its descriptor."""
    attributes = _MountAttr(propagation=propagation)
    _set_mount(tree_fd, attributes, _AT_RECURSIVE if recursive else 0, "propagation of mount")


def _set_mount(tree_fd: int, attributes: _MountAttr, flags: int, what: str) -> None:
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        tree_fd,
        b"",
        _AT_EMPTY_PATH | flags,
        ctypes.byref(attributes),
        ctypes.sizeof(attributes),
    )
    _check(result, f"set {what}")


def move_mount(tree_fd: int, target: str) -> None:
    """Attach a detached mount at ``target`` (move_mount(2)); borrows the descriptor."""
    result = _libc.syscall(
        _SYS_MOVE_MOUNT, tree_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH
    )
    _check(result, f"attach mount at {target}")


def move_mount_onto(tree_fd: int, target_fd: int) -> None:
    """Attach a detached mount on what an O_PATH descriptor stands for; borrows both."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    _check(_libc.syscall(_SYS_MOVE_MOUNT, tree_fd, b"", target_fd, b"", flags), "attach mount")


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def openat2(
    dir_fd: int, path: str, flags: int, mode: int = 0, resolve: int = RESOLVE_BENEATH
) -> int:
    """Call openat2(2): open ``path`` beneath ``dir_fd``; returns a descriptor the caller owns."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    result = _libc.syscall(
        _SYS_OPENAT2, dir_fd, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)
    )
    return _check(result, f"open {path}")


def inotify_init() -> int:
    """Call inotify_init1(2); returns a descriptor that does not block, which the caller owns."""
    return _check(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Call inotify_add_watch(2); returns the watch's number, the same for the same inode."""
    return _check(_libc.inotify_add_watch(fd, os.fsencode(path), mask), f"watch {path}")


class _Timex(ctypes.Structure):
    # adjtimex(2); what follows is read only.
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("unused", ctypes.c_long * 7),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
        ("rest", ctypes.c_char * 120),
    )


def step_clock(offset_ns: int) -> None:
    """Add nanoseconds to the wall clock at once (clock_adjtime(2))."""
    seconds, rest_ns = divmod(offset_ns, 1_000_000_000)
    timex = _Timex(modes=_ADJ_SETOFFSET | _ADJ_NANO, seconds=seconds, nanoseconds=rest_ns)
    _check(_libc.adjtimex(ctypes.byref(timex)), "step clock")


def slew_clock(offset_ns: int) -> None:
    """Add nanoseconds to the wall clock little by little, instead of what is left of before."""
    timex = _Timex(modes=_ADJ_OFFSET_SINGLESHOT, offset=offset_ns // 1000)
    _check(_libc.adjtimex(ctypes.byref(timex)), "slew clock")


def make_step_timer() -> int:
    """Return a descriptor that can be read when the wall clock is stepped; the caller owns it.

    timerfd_create(2), TFD_TIMER_CANCEL_ON_SET; suspended hosts step it when they wake up.
    """
    flags = os.O_NONBLOCK | os.O_CLOEXEC
    fd = _check(_libc.timerfd_create(time.CLOCK_REALTIME, flags), "make timer")
    try:
        wait_step(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def wait_step(timer_fd: int) -> None:
    """Have a timer of ``make_step_timer`` wait for the next step."""
    try:
        os.read(timer_fd, 8)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ECANCELED):
            raise
    never = (ctypes.c_long * 4)(0, 0, _NEVER_S, 0)
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    _check(_libc.timerfd_settime(timer_fd, flags, never, None), "set timer")
