"""What file system calls do in a folder: a line each, the same in a machine as with runc.

Run in a container, as root, with a folder that it may make.  Needs nothing but Debian's Python.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import select
import shutil
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator

LIBC = ctypes.CDLL(None, use_errno=True)
USER = 1000
GROUP = 2000
# linux/fcntl.h, linux/fs.h, linux/falloc.h, which Python has no names for
AT_FDCWD = -100
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
PUNCH_HOLE_KEEP_SIZE = 3
F_OFD_SETLK = 37
F_SETLEASE = 1024
IN_CREATE_MODIFY_DELETE = 0x302
# VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE, permitted and effective
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, who)
    for tag, bits, who in (
        (1, 6, 0xFFFFFFFF),
        (2, 4, USER),
        (4, 4, 0xFFFFFFFF),
        (16, 4, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    )
)
Probe = Callable[[], object]
PROBES: dict[str, Probe] = {}


def probe(name: str) -> Callable[[Probe], Probe]:
    """Have a function print its result under a name."""

    def note(function: Probe) -> Probe:
        PROBES[name] = function
        return function

    return note


def write(name: str, data: bytes = b"") -> None:
    with open(name, "wb") as file:
        file.write(data)


def read(name: str) -> bytes:
    with open(name, "rb") as file:
        return file.read()


def in_child(function: Probe, user: int = 0, groups: tuple[int, ...] = ()) -> object:
    """Call a function in a process of its own; returns its answer, or its error's name."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if user:
                os.setgroups(groups)
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            answer = repr(function())
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader, "rb") as file:
        return file.read().decode()


def check(result: int) -> None:
    """Raise what a call of the C library failed with."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mode(name: str) -> str:
    return f"{stat.S_IMODE(os.stat(name).st_mode):o}"


@probe("temporary file without a name")
def tmpfile() -> object:
    os.write(os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600), b"x")
    return None


@probe("flock between processes")
def flock() -> object:
    with open("flock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def other() -> None:
            with open("flock") as again:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

        return in_child(other)


@probe("record lock between processes")
def record_lock() -> object:
    with open("lock", "w") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)

        def other() -> None:
            with open("lock", "r+") as again:
                fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)

        return in_child(other)


@probe("lock of an open file description")
def ofd_lock() -> object:
    with open("ofd", "w") as file:
        fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
    return None


@probe("shared mapping")
def mapping() -> object:
    with open("map", "w+b") as file:
        file.truncate(8192)
        memory = mmap.mmap(file.fileno(), 8192)
        memory[4000:4004] = b"abcd"
        memory.flush()
        in_child(lambda: memory.__setitem__(0, 90))
        return read("map")[4000:4004], memory[0]


@probe("mapping that runs")
def executable_mapping() -> object:
    write("code", b"\xc3" * 4096)
    with open("code", "rb") as file:
        mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)
    return None


@probe("mapping of a file that is appended to")
def append_and_map() -> object:
    with open("append", "a+b") as file:
        file.truncate(1024)
        memory = mmap.mmap(file.fileno(), 1024)
        memory[0:4] = b"abcd"
        memory.flush()
        first = os.stat("append").st_size, read("append")[:4]
        with open("append", "ab") as other:
            other.write(b"other")
        file.write(b"tail")
        file.flush()
        memory[4:8] = b"efgh"
        memory.flush()
        whole = read("append")
        return first, len(whole), whole[:8], whole[-9:]


@probe("append by four processes")
def append() -> object:
    def some() -> None:
        file = os.open("appended", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for _ in range(200):
            os.write(file, b"1\n")

    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            some()
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    return os.stat("appended").st_size


@probe("synchronous and direct writes of a mapped file")
def flags() -> object:
    found = []
    for name, more in (("sync", os.O_SYNC), ("direct", os.O_DIRECT)):
        file = os.open(name, os.O_RDWR | os.O_CREAT | more)
        os.ftruncate(file, 8192)
        memory = mmap.mmap(file, 8192)
        memory[0:4] = b"abcd"
        memory.flush()
        page = mmap.mmap(-1, 4096)
        page[:] = b"q" * 4096
        os.pwrite(file, page, 4096)
        found.append((os.stat(name).st_size, read(name)[:4], read(name)[4096:4100]))
    return found


@probe("user.* attributes")
def user_attribute() -> object:
    write("attributes")
    os.setxattr("attributes", "user.a", b"1")
    found = os.getxattr("attributes", "user.a"), "user.a" in os.listxattr("attributes")
    os.removexattr("attributes", "user.a")
    return found, os.listxattr("attributes")


@probe("trusted.* attributes")
def trusted_attribute() -> object:
    os.setxattr("attributes", "trusted.b", b"1")
    return os.getxattr("attributes", "trusted.b")


@probe("file capabilities")
def capability() -> object:
    os.setxattr("attributes", "security.capability", CAPABILITY)
    return os.getxattr("attributes", "security.capability")


@probe("file capabilities after a write")
def capability_written() -> object:
    write("attributes", b"x")
    return os.getxattr("attributes", "security.capability")


@probe("access control lists")
def acl() -> object:
    write("acl")
    os.setxattr("acl", "system.posix_acl_access", ACL)
    return mode("acl")


@probe("time of birth")
def birth() -> object:
    return os.system("test $(stat -c %W attributes) -gt 0") == 0


@probe("hard links")
def links() -> object:
    write("h1", b"1")
    os.link("h1", "h2")
    both = os.stat("h1").st_nlink
    os.unlink("h1")
    return both, os.stat("h2").st_nlink


@probe("holes")
def holes() -> object:
    with open("sparse", "w+b") as file:
        file.truncate(1 << 30)
        file.seek(512 << 20)
        file.write(b"x" * 4096)
        file.flush()
        os.fsync(file.fileno())
        found = os.lseek(file.fileno(), 0, os.SEEK_DATA)
        return found == 512 << 20, os.stat("sparse").st_blocks * 512 < 1 << 20


@probe("punching a hole")
def punch() -> object:
    with open("punched", "w+b") as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        size = ctypes.c_long(1 << 19)
        check(LIBC.fallocate(file.fileno(), PUNCH_HOLE_KEEP_SIZE, ctypes.c_long(0), size))
        return os.pread(file.fileno(), 4, 0)


@probe("allocating")
def allocate() -> object:
    with open("allocated", "w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)
    return os.stat("allocated").st_size


@probe("exchanging names")
def exchange() -> object:
    write("r1", b"1")
    write("r2", b"2")
    check(LIBC.renameat2(AT_FDCWD, b"r1", AT_FDCWD, b"r2", RENAME_EXCHANGE))
    return read("r1")


@probe("renaming onto what exists, not allowed")
def no_replace() -> object:
    check(LIBC.renameat2(AT_FDCWD, b"r1", AT_FDCWD, b"r2", RENAME_NOREPLACE))
    return None


@probe("renaming a folder onto an empty one")
def rename_folder() -> object:
    os.mkdir("d1")
    os.mkdir("d2")
    write("d1/f")
    os.rename("d1", "d2")
    return os.listdir("d2")


@probe("renaming a folder of the image")
def rename_lower() -> object:
    os.rename("/usr/share/bash-completion", "/usr/share/bash-renamed")
    os.rename("/usr/share/bash-renamed", "/usr/share/bash-completion")
    return os.path.isdir("/usr/share/bash-completion")


@probe("open file without a name")
def unlinked() -> object:
    with open("unlinked", "w+b") as file:
        os.unlink("unlinked")
        file.write(b"hello")
        file.flush()
        file.seek(0)
        found = file.read()
        os.fchmod(file.fileno(), 0o600)
        file.truncate(3)
        return found, os.fstat(file.fileno()).st_size


@probe("named pipe")
def pipe() -> object:
    os.mkfifo("pipe")
    if os.fork() == 0:
        write("pipe", b"hi")
        os._exit(0)
    found = read("pipe")
    os.wait()
    return found


@probe("socket")
def unix_socket() -> object:
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    client.send(b"x")
    return server.accept()[0].recv(1)


@probe("device node")
def device() -> object:
    os.mknod("null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    write("null", b"x")
    return None


@probe("inotify")
def inotify() -> object:
    watch = LIBC.inotify_init()
    check(LIBC.inotify_add_watch(watch, b".", IN_CREATE_MODIFY_DELETE))
    write("watched", b"x")
    os.unlink("watched")
    return bool(select.select([watch], [], [], 3)[0])


@probe("folder of 3000 files, removed while it is read")
def many() -> object:
    os.mkdir("many")
    for number in range(3000):
        write(f"many/f{number}")
    listed = len(os.listdir("many"))
    removed = 0
    with os.scandir("many") as entries:
        for entry in entries:
            os.unlink(entry.path)
            removed += 1
    os.rmdir("many")
    return listed, removed


@probe("longest name")
def longest_name() -> object:
    write("n" * 255)
    try:
        write("n" * 256)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return None


@probe("copy_file_range and sendfile")
def copy_range() -> object:
    write("copied", b"y" * 100_000)
    source = os.open("copied", os.O_RDONLY)
    target = os.open("copy", os.O_RDWR | os.O_CREAT)
    moved = os.copy_file_range(source, target, 100_000)
    return moved, os.sendfile(target, source, 0, 1000)


@probe("times in nanoseconds")
def times() -> object:
    os.utime("copied", ns=(1234567890123456789, 1234567890987654321))
    return os.stat("copied").st_mtime_ns


@probe("a write to a mapping changes the time")
def mapped_time() -> object:
    os.utime("map", ns=(1, 1))
    with open("map", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 8192)
        memory[1:2] = b"k"
        memory.flush()
        memory.close()
    return os.stat("map").st_mtime > 1000


@probe("size of the file system")
def file_system() -> object:
    found = os.statvfs(".")
    return found.f_blocks > 0, found.f_bavail > 0, found.f_namemax


@probe("folder that moves while it is open")
def moved_folder() -> object:
    os.mkdir("moving")
    folder = os.open("moving", os.O_RDONLY)
    os.close(os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=folder))
    os.rename("moving", "moved")
    return os.listdir(folder)


@probe("a program that runs is written to")
def text_busy() -> object:
    shutil.copy("/bin/sleep", "sleep")
    pid = os.spawnv(os.P_NOWAIT, "./sleep", ["sleep", "5"])
    time.sleep(0.5)
    try:
        with open("sleep", "r+b"):
            return None
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@probe("lease")
def lease() -> object:
    write("leased")
    file = os.open("leased", os.O_RDONLY)
    fcntl.fcntl(file, F_SETLEASE, fcntl.F_RDLCK)
    return fcntl.fcntl(file, F_SETLEASE, fcntl.F_UNLCK)


@probe("file handle")
def file_handle() -> object:
    handle = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + b"\0" * 128, 136)
    mount = ctypes.c_int()
    check(LIBC.name_to_handle_at(AT_FDCWD, b"copied", handle, ctypes.byref(mount), 0))
    return None


@probe("writing back")
def sync() -> object:
    os.fsync(os.open(".", os.O_RDONLY))
    check(LIBC.syncfs(os.open("copied", os.O_RDWR)))
    return None


def lose_privileges(name: str, user: int, change: Callable[[str], object]) -> object:
    """Return the mode of a setuid and setgid file of root's after a change by a user."""
    write(name, b"x" * 8192)
    os.chmod(name, 0o6777)
    answer = in_child(lambda: change(name), user)
    return answer, mode(name)


def open_and_close(name: str, flags: int) -> None:
    os.close(os.open(name, flags))


def open_and_write(name: str) -> None:
    file = os.open(name, os.O_WRONLY)
    os.write(file, b"y")
    os.close(file)


def open_and_allocate(name: str) -> None:
    file = os.open(name, os.O_WRONLY)
    os.posix_fallocate(file, 0, 16384)
    os.close(file)


def map_and_write(name: str) -> None:
    file = os.open(name, os.O_RDWR)
    memory = mmap.mmap(file, 8192)
    memory[0:1] = b"q"
    memory.flush()


CHANGES: dict[str, Callable[[str], object]] = {
    "O_TRUNC": lambda name: open_and_close(name, os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda name: os.truncate(name, 3),
    "write": open_and_write,
    "fallocate": open_and_allocate,
    "mapping": map_and_write,
}


def list_privileges() -> Iterator[tuple[str, Probe]]:
    for user, who in ((USER, "a user's"), (0, "root's")):
        for what, change in CHANGES.items():
            name = f"priv-{what}-{user}"
            # In a function of its own, as a loop's variables change.
            yield f"setuid after {who} {what}", _bind(name, user, change)


def _bind(name: str, user: int, change: Callable[[str], object]) -> Probe:
    return lambda: lose_privileges(name, user, change)


@probe("setuid after chown")
def chown_privileges() -> object:
    write("chowned")
    os.chmod("chowned", 0o6755)
    os.chown("chowned", USER, USER)
    return mode("chowned")


@probe("what a user owns")
def own_file() -> object:
    write("own")
    os.chown("own", USER, USER)
    os.chmod("own", 0o600)
    return in_child(lambda: write("own", b"x"), USER), in_child(lambda: write("own"), USER + 1)


def list_group() -> Iterator[tuple[str, Probe]]:
    def in_group() -> object:
        os.mkdir("group")
        os.chown("group", 0, GROUP)
        os.chmod("group", 0o2775)
        write("group/source")
        os.chown("group/source", USER, USER)
        return in_child(lambda: os.mkdir("group/other"), USER)

    def make(name: str, function: Probe) -> Probe:
        def run() -> object:
            answer = in_child(function, USER, (GROUP,))
            status = os.lstat(f"group/{name}")
            return answer, f"{status.st_mode:o}", status.st_uid, status.st_gid

        return run

    yield "in a group's folder without the group", in_group
    for name, function in (
        ("file", lambda: open_and_close("group/file", os.O_CREAT | os.O_WRONLY)),
        ("folder", lambda: os.mkdir("group/folder")),
        ("link", lambda: os.link("group/source", "group/link")),
        ("symlink", lambda: os.symlink("x", "group/symlink")),
        ("pipe", lambda: os.mkfifo("group/pipe")),
    ):
        yield f"in a group's folder: {name}", make(name, function)


def main(folder: str) -> None:
    """Print what each call does in a folder, which is made."""
    os.makedirs(folder)
    os.chmod(folder, 0o777)
    os.chdir(folder)
    os.umask(0o022)
    for name, function in (*PROBES.items(), *list_group(), *list_privileges()):
        try:
            answer = repr(function())
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        print(f"{name}: {answer}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
