"""Enter a container and become one more process of it.  Runs in a child of the forker only.

Two processes do it: the first joins the container's cgroup and namespaces and forks the second,
which is then in the container's pid namespace, and leaves it to the agent as an orphan.  So what
the container's processes can see has nothing of the agent's any more.  What the two have to tell
goes over the reply's socket, which closes when the program is executed.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import resource
import struct
import sys

from kata.base import fdpass, syscalls
from kata.base.errors import Code, KataError, describe_error
from kata.guest import cgroup, files, privileges, programs, signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any, NoReturn

PID = b"pid"
TERMINAL = b"terminal"
FAILURE = b"failure"

_NAMESPACES = {
    "mnt": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "net": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "user": syscalls.CLONE_NEWUSER,
}
# Members of a process that only crun obeys.
CRUNS = ("ioPriority", "scheduler", "execCPUAffinity", "apparmorProfile", "selinuxLabel")
_EBUSY = 16
# asm-generic/ioctls.h
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCGPTN = 0x80045430
# Where programs are looked for when the environment does not say.
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENDED = 127
# The status of a process whose program could not be executed after all.
FAILED = 1


def enter(process: dict[str, Any], cgroups: list[str], fds: Mapping[str, int]) -> NoReturn:
    """Become ``process`` (the specification's object) in ``cgroups``, which are folders.

    Ends this process in any case.
    ``fds``: reply, init (the container's first process, a pidfd), and as far as there are any
    stdin, stdout, stderr, filter (a seccomp program).
    """

    def work(reply: _socket.socket) -> None:
        for folder in cgroups:
            _join_cgroup(folder, fds["init"])
        prepare_self(process)
        _join_namespaces(fds["init"])
        leave_to_child(reply)
        open_streams(process, fds, reply)
        become(process, fds)

    run(fds, work)


def run(fds: Mapping[str, int], work: Callable[[_socket.socket], None]) -> NoReturn:
    """Do ``work`` in this process and end it; what goes wrong is told by the reply's socket."""
    reply = _socket.socket(fileno=fds["reply"])
    try:
        signals.reset()
        # An import from now on would run what the container has put there.
        sys.meta_path.clear()
        work(reply)
    except BaseException as error:  # noqa: BLE001  # whatever it is, the agent is told
        code = error.code if isinstance(error, KataError) else Code.UNKNOWN
        fdpass.send(reply, [FAILURE, str(code).encode(), describe_error(error).encode()])
    finally:
        os._exit(ENDED)


def prepare_self(process: dict[str, Any]) -> None:
    """Do what has to be done before others can see this process."""
    if "oomScoreAdj" in process:
        _set_oom_score(int(process["oomScoreAdj"]))
    privileges.hide()


def tell_pid(reply: _socket.socket) -> None:
    """Tell the agent which process this is, by the number that it has for the agent."""
    fdpass.send(reply, [PID, os.readlink("/proc/self").encode()])


def leave_to_child(reply: _socket.socket) -> None:
    """Go on in a child, in the pid namespace that was joined, which the agent is told of."""
    pid = os.fork()
    if pid:
        fdpass.send(reply, [PID, str(pid).encode()])
        os._exit(0)


def open_streams(
    process: dict[str, Any],
    fds: Mapping[str, int],
    reply: _socket.socket,
    on_terminal: Callable[[int, int], None] | None = None,
) -> None:
    """Begin a session with its standard streams; ``on_terminal`` gets a terminal and its number."""
    os.setsid()
    if process.get("terminal"):
        uid = int((process.get("user") or {}).get("uid", 0))
        _open_terminal(process.get("consoleSize") or {}, uid, reply, on_terminal)
    else:
        for number, name in enumerate(("stdin", "stdout", "stderr")):
            os.dup2(fds[name], number)


def become(
    process: dict[str, Any], fds: Mapping[str, int], wait: Callable[[], None] | None = None
) -> None:
    """Turn into the process.  Raises KataError or OSError; else the program runs.

    ``wait`` is called when nothing is left to do but to execute it.
    """
    user = process.get("user") or {}
    uid, gid = int(user.get("uid", 0)), int(user.get("gid", 0))
    program = os.pread(fds["filter"], 1 << 20, 0) if "filter" in fds else b""
    syscalls.close_at_exec(3)  # nothing of the agent's gets into the container
    _set_limits(process.get("rlimits") or [])
    unprivileged = bool(process.get("noNewPrivileges"))
    if program and not unprivileged:
        privileges.filter_calls(program)  # which without no_new_privs needs the privileges
    cwd = process.get("cwd") or "/"
    entered = _change_folder(cwd, again=True)
    _drop_privileges(process.get("capabilities") or {}, uid, gid, user)
    if not entered:  # it may be the user's alone
        _change_folder(cwd)
    environment = _environment(process.get("env") or [], uid)
    os.umask(int(user.get("umask", 0o022)))
    arguments = [os.fsencode(word) for word in process["args"]]
    path = programs.find(process["args"][0], environment.get("PATH", _DEFAULT_PATH))
    if wait:
        wait()
    if unprivileged:
        privileges.forbid_new_privileges()
        if program:
            privileges.filter_calls(program)
    try:
        os.execve(path, arguments, environment)
    except OSError as error:
        # What only the kernel finds, an interpreter or a format: engines know it from runc as a
        # program that says so and ends.
        os.write(2, f"exec {process['args'][0]}: {programs.describe(error)}\n".encode())
        os._exit(FAILED)


def _join_cgroup(folder: str, init_fd: int) -> None:
    try:
        files.control(f"{folder}/cgroup.procs", "0")
    except OSError as error:
        if error.errno != _EBUSY:
            raise
        # The container has made cgroups of its own, and its first process has moved to one.
        files.control(f"{cgroup.find_path(_pid_of(init_fd))}/cgroup.procs", "0")


def _set_oom_score(score: int) -> None:
    try:
        files.control("/proc/self/oom_score_adj", str(score))
    except PermissionError:
        pass  # lowering it needs a privilege that not every machine's root has


def _join_namespaces(init_fd: int) -> None:
    flags = 0
    pid = _pid_of(init_fd)
    for name, flag in _NAMESPACES.items():
        if os.stat(f"/proc/self/ns/{name}").st_ino != os.stat(f"/proc/{pid}/ns/{name}").st_ino:
            flags |= flag
    if flags:
        syscalls.setns(init_fd, flags)
    if flags & syscalls.CLONE_NEWUSER:
        # What is made before the process has its own user belongs to the root of the namespace.
        privileges.switch_user(0, 0, [])


def _pid_of(pidfd: int) -> int:
    """Return the pid of a pidfd's process.  Raises FAILED_PRECONDITION when it has ended."""
    lines = files.read(f"/proc/self/fdinfo/{pidfd}").splitlines()
    pid = next(int(line[4:]) for line in lines if line.startswith("Pid:"))
    if pid <= 0:
        raise KataError("exec in container: its first process has ended", Code.FAILED_PRECONDITION)
    return pid


def _open_terminal(
    size: dict[str, Any],
    uid: int,
    reply: _socket.socket,
    on_terminal: Callable[[int, int], None] | None,
) -> None:
    """Make a terminal of the container's own devpts the standard streams; send its master."""
    master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    # By the descriptor: a path could be anything that the container has put there.
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    if size:
        lines, columns = int(size.get("height", 0)), int(size.get("width", 0))
        fcntl.ioctl(slave, _TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.fchown(slave, uid, -1)
    if on_terminal:
        (number,) = struct.unpack("i", fcntl.ioctl(master, _TIOCGPTN, bytes(4)))
        on_terminal(slave, number)
    fdpass.send(reply, [TERMINAL], [master])
    for number in (0, 1, 2):
        os.dup2(slave, number)
    fcntl.ioctl(0, _TIOCSCTTY, 0)


def _set_limits(limits: list[dict[str, Any]]) -> None:
    for limit in limits:
        number = privileges.limit_number(limit["type"])
        pair = (_limit(limit["soft"]), _limit(limit["hard"]))
        try:
            resource.setrlimit(number, pair)
        except (OSError, ValueError) as error:
            raise KataError(f"set limit {limit['type']}: {error}", Code.UNKNOWN) from error


def _limit(value: int) -> int:
    return -1 if value >= 1 << 63 else value  # RLIM_INFINITY


def _drop_privileges(names: dict[str, list[str]], uid: int, gid: int, user: dict[str, Any]) -> None:
    wanted = {
        kind: privileges.numbers_of(names.get(kind) or [])
        for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
    }
    privileges.drop_bounding(wanted.pop("bounding"))
    privileges.switch_user(uid, gid, [int(group) for group in user.get("additionalGids") or []])
    privileges.set_capabilities(**wanted)


def _environment(words: list[str], uid: int) -> dict[str, str]:
    environment = dict(word.split("=", 1) for word in words if "=" in word)
    if "HOME" not in environment:
        environment["HOME"] = _find_home(uid)
    return environment


def _find_home(uid: int) -> str:
    """Return a user's home as the container's own list of users says."""
    try:
        lines = files.read("/etc/passwd").splitlines()
    except OSError:
        return "/"  # an image need not have one
    for line in lines:
        fields = line.split(":")
        if len(fields) > 5 and fields[2] == str(uid):
            return fields[5] or "/"
    return "/"


def _change_folder(path: str, *, again: bool = False) -> bool:
    """Enter a folder; with ``again`` returns False where another user may be let in."""
    try:
        os.chdir(path)
        os.getcwd()  # a folder outside of the container's root has no path (CVE-2024-21626)
    except OSError as error:
        if again and isinstance(error, PermissionError):
            return False
        raise KataError(
            f'chdir to cwd ("{path}") set in config.json failed: {programs.describe(error)}',
            Code.UNKNOWN,
        ) from None
    return True
