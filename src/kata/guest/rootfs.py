"""A container's root: its mounts, devices and protected paths.

For a process in a mount namespace of its own.  Every path inside is resolved with the container's
folder as the root, each time to a descriptor on which the next step works; a link that the image or
a volume has in the way leads nowhere else (CVE-2019-19921, CVE-2021-30465).
"""

from __future__ import annotations

import os
import stat

from kata.base import defaultdevices, syscalls
from kata.base.errors import Code, KataError
from kata.base.mountoptions import parse_options
from kata.guest import programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# Attributes of a mount by option: those it gives, and those it takes.
_ATTRIBUTES = {
    "ro": (syscalls.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, syscalls.MOUNT_ATTR_RDONLY),
    "nosuid": (syscalls.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, syscalls.MOUNT_ATTR_NOSUID),
    "nodev": (syscalls.MOUNT_ATTR_NODEV, 0),
    "dev": (0, syscalls.MOUNT_ATTR_NODEV),
    "noexec": (syscalls.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, syscalls.MOUNT_ATTR_NOEXEC),
    "noatime": (syscalls.MOUNT_ATTR_NOATIME, syscalls.MOUNT_ATTR_ATIME),
    "atime": (0, syscalls.MOUNT_ATTR_ATIME),
    "relatime": (0, syscalls.MOUNT_ATTR_ATIME),
    "strictatime": (syscalls.MOUNT_ATTR_STRICTATIME, syscalls.MOUNT_ATTR_ATIME),
    "nodiratime": (syscalls.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, syscalls.MOUNT_ATTR_NODIRATIME),
}
_LINKS = (*defaultdevices.LINKS, ("core", "/proc/kcore"))
# The kernel's own file systems, which a link must not put somewhere else (CVE-2019-19921).
_KERNELS = ("proc", "sysfs")
# Where in /proc other files may be put; elsewhere they could make the protected paths mean nothing
# (CVE-2019-16884).  The list is runc's.
_REPLACEABLE = (
    "/proc/cpuinfo", "/proc/diskstats", "/proc/loadavg", "/proc/meminfo", "/proc/net/dev",
    "/proc/slabinfo", "/proc/stat", "/proc/swaps", "/proc/sys/kernel/ns_last_pid", "/proc/uptime",
)  # fmt: skip
_KINDS = {"c": stat.S_IFCHR, "u": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_FOLDER_MODE = 0o755
_RECEIVING = ("slave", "rslave", "shared", "rshared")


def is_bind(mount: dict[str, Any]) -> bool:
    """Return whether an entry of the specification's mounts is of something that exists."""
    options = mount.get("options") or []
    return mount.get("type") in ("bind", "rbind") or "bind" in options or "rbind" in options


class Root:
    """The folder that becomes a container's root.  Owns a descriptor of it."""

    def __init__(self, path: str, propagation: str = "") -> None:
        """Make ``path`` a mount of its own, with the specification's propagation.

        Raises OSError, or INVALID_ARGUMENT for a word that is none.
        """
        self._propagation = parse_options([propagation]).propagation
        if propagation and not self._propagation:
            raise KataError(f"root: no propagation {propagation!r}", Code.INVALID_ARGUMENT)
        # From the guest to the container at most.
        deep = syscalls.MS_SLAVE if propagation in _RECEIVING else syscalls.MS_PRIVATE
        syscalls.mount("", "/", "", syscalls.MS_REC | deep)
        syscalls.mount(path, path, "", syscalls.MS_REC | syscalls.MS_BIND)
        self._fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        # The shared folder's own mount has no devices; a container's may, as its rules allow.
        syscalls.restrict_mount(self._fd, 0, syscalls.MOUNT_ATTR_NODEV, recursive=False)
        self._procs: set[int] = set()

    def mount_all(self, mounts: Iterable[dict[str, Any]]) -> None:
        """Do the specification's mounts.  Raises KataError that names the one that failed."""
        for mount in mounts:
            target = str(mount["destination"])
            try:
                if is_bind(mount):
                    self._bind(mount["source"], target, mount.get("options") or [])
                else:
                    self._mount(mount, target)
            except OSError as error:
                source = mount.get("source") or mount.get("type")
                raise KataError(
                    f"mount {source} at {target}: {error.strerror or error}", Code.UNKNOWN
                ) from error

    def make_devices(self, devices: Iterable[dict[str, Any]]) -> None:
        """Make the devices that every container has, and those of the specification."""
        folder = self._make_folder("/dev")
        try:
            for name, major, minor in defaultdevices.NODES:
                _make_node(folder, name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
            for name, target in _LINKS:
                _make_link(folder, name, target)
            if _exists(folder, "pts"):
                if _exists(folder, "ptmx"):
                    os.unlink("ptmx", dir_fd=folder)
                _make_link(folder, "ptmx", "pts/ptmx")
        finally:
            os.close(folder)
        for device in devices:
            self._make_device(device)

    def mask(self, paths: Iterable[str]) -> None:
        """Hide what is at these paths."""
        for path in paths:
            fd = self._find(path)
            if fd < 0:
                continue
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                flags = syscalls.MS_RDONLY
                syscalls.mount("tmpfs", _by_fd(fd), "tmpfs", flags, "size=0k")
            else:
                tree = syscalls.clone_mount("/dev/null", syscalls.MS_PRIVATE, recursive=False)
                syscalls.protect_mount(tree, recursive=False)
                syscalls.move_mount_onto(tree, fd)
                os.close(tree)
            os.close(fd)

    def protect(self, paths: Iterable[str]) -> None:
        """Make what is at these paths read-only, with all below."""
        for path in paths:
            fd = self._find(path)
            if fd >= 0:
                tree = syscalls.clone_mount(_by_fd(fd), syscalls.MS_PRIVATE, recursive=True)
                syscalls.protect_mount(tree, recursive=True)
                syscalls.move_mount_onto(tree, fd)
                os.close(tree)
                os.close(fd)

    def make_working_folder(self, path: str) -> None:
        """Make the folder that the process starts in.

        Raises KataError for a file in its place; what else cannot be is told later.
        """
        try:
            os.close(self._make_folder(path))
        except NotADirectoryError as error:
            while not self._is_folder(os.path.dirname(path)):
                path = os.path.dirname(path)
            raise KataError(f"mkdir {path}: {programs.describe(error)}", Code.UNKNOWN) from None
        except OSError:
            pass

    def enter(self) -> None:
        """Make it the root of this process's mount namespace, and the rest of it vanish."""
        os.fchdir(self._fd)
        os.close(self._fd)
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        for flag in self._propagation:
            syscalls.mount("", "/", "", flag)

    def _bind(self, source: str, target: str, options: list[str]) -> None:
        added, taken = _attributes(options, "")
        deep_added, deep_taken = _attributes(options, "r")
        deep = "rbind" in options
        tree = syscalls.clone_mount(source, syscalls.MS_PRIVATE, recursive=deep)
        try:
            if deep_added or deep_taken:
                syscalls.restrict_mount(tree, deep_added, deep_taken, recursive=True)
            if added or taken:
                syscalls.restrict_mount(tree, added, taken, recursive=False)
            is_folder = stat.S_ISDIR(os.fstat(tree).st_mode)
            fd = self._make_folder(target) if is_folder else self._make_file(target)
            if os.fstat(fd).st_dev in self._procs and target.rstrip("/") not in _REPLACEABLE:
                raise KataError(f"mount {source} at {target}: inside /proc", Code.INVALID_ARGUMENT)
            syscalls.move_mount_onto(tree, fd)
            os.close(fd)
            _propagate(tree, options)
        finally:
            os.close(tree)

    def _mount(self, mount: dict[str, Any], target: str) -> None:
        kind = str(mount.get("type") or "")
        options = parse_options(mount.get("options") or [])
        source, data = str(mount.get("source") or kind), options.data
        if kind == "cgroup":
            source, kind, data = "cgroup", "cgroup2", ""
        fd = self._make_folder(target)
        if kind in _KERNELS:
            self._require_folder(target)
        # A path that does not pass through links again.
        syscalls.mount(source, _by_fd(fd), kind, options.flags, data)
        os.close(fd)
        if options.propagation or kind == "proc":
            fd = self._open(target)
            _propagate(fd, mount.get("options") or [])
            if kind == "proc":
                self._procs.add(os.fstat(fd).st_dev)
            os.close(fd)

    def _is_folder(self, path: str) -> bool:
        fd = self._find(path)
        if fd < 0:
            return False
        try:
            return stat.S_ISDIR(os.fstat(fd).st_mode)
        finally:
            os.close(fd)

    def _make_device(self, device: dict[str, Any]) -> None:
        path = str(device["path"])
        folder, _, name = path.rpartition("/")
        kind = _KINDS[str(device.get("type", "c"))]
        mode = kind | int(device.get("fileMode") or 0o666) & 0o7777
        number = os.makedev(int(device.get("major") or 0), int(device.get("minor") or 0))
        fd = self._make_folder(folder)
        try:
            _make_node(fd, name, mode, number)
            os.chown(name, int(device.get("uid") or 0), int(device.get("gid") or 0),
                     dir_fd=fd, follow_symlinks=False)  # fmt: skip
        except OSError as error:
            raise KataError(f"make device {path}: {error.strerror}", Code.UNKNOWN) from error
        finally:
            os.close(fd)

    def _open(self, path: str, flags: int = os.O_PATH) -> int:
        inner = path.lstrip("/") or "."
        return syscalls.openat2(self._fd, inner, flags, resolve=syscalls.RESOLVE_IN_ROOT)

    def _require_folder(self, path: str) -> None:
        """Refuse a path with links in it."""
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        try:
            os.close(syscalls.openat2(self._fd, path.lstrip("/"), os.O_PATH, resolve=resolve))
        except OSError as error:
            raise KataError(
                f"mount at {path}: it must be a folder, without links in its path",
                Code.INVALID_ARGUMENT,
            ) from error

    def _find(self, path: str) -> int:
        """Return an O_PATH descriptor, -1 when there is no such path."""
        try:
            return self._open(path)
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def _make_folder(self, path: str) -> int:
        """Return a folder's descriptor; what is missing of its path is made."""
        done = ""
        for name in [name for name in path.split("/") if name]:
            parent, done = done, f"{done}/{name}"
            fd = self._find(done)
            if fd < 0:
                above = self._open(parent)
                os.mkdir(name, _FOLDER_MODE, dir_fd=above)
                os.close(above)
            else:
                os.close(fd)
        return self._open(path, os.O_PATH | os.O_DIRECTORY)

    def _make_file(self, path: str) -> int:
        """Return a file's descriptor; it is made, with its path, when it is missing."""
        fd = self._find(path)
        if fd < 0:
            folder, _, name = path.rstrip("/").rpartition("/")
            above = self._make_folder(folder)
            flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(name, flags, 0o644, dir_fd=above))
            os.close(above)
            fd = self._open(path)
        return fd


def bind_console(terminal_fd: int, number: int) -> None:
    """Make a terminal, the one of this number, the container's /dev/console too.

    After ``enter``.  Raises PERMISSION_DENIED when its path is something else (CVE-2025-52565).
    """
    path = "/dev/console"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except FileExistsError:
        pass
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    tree = syscalls.clone_mount(f"/dev/pts/{number}", syscalls.MS_PRIVATE, recursive=False)
    if not os.path.samestat(os.fstat(tree), os.fstat(terminal_fd)):
        raise KataError("make /dev/console: /dev/pts is not a devpts", Code.PERMISSION_DENIED)
    syscalls.move_mount_onto(tree, fd)
    os.close(tree)
    os.close(fd)


def protect_root() -> None:
    """Make the root itself read-only, but not what is mounted in it.  After ``enter``."""
    fd = os.open("/", os.O_PATH | os.O_CLOEXEC)
    syscalls.protect_mount(fd, recursive=False)
    os.close(fd)


def _attributes(options: Iterable[str], prefix: str) -> tuple[int, int]:
    """Return the attributes that options with a prefix give and take, the last one winning."""
    added = taken = 0
    for option in options:
        found = _ATTRIBUTES.get(option.removeprefix(prefix)) if option.startswith(prefix) else None
        if found:
            gives, takes = found
            added, taken = added & ~takes | gives, taken & ~gives | takes
    return added, taken


def _propagate(fd: int, options: Iterable[str]) -> None:
    for flag in parse_options(options).propagation:
        kind, deep = flag & ~syscalls.MS_REC, bool(flag & syscalls.MS_REC)
        syscalls.propagate_mount(fd, kind, recursive=deep)


def _make_node(folder: int, name: str, mode: int, number: int) -> None:
    # With no umask, see birth: a chmod would follow a link that somebody puts there meanwhile.
    try:
        os.mknod(name, mode, number, dir_fd=folder)
    except FileExistsError:
        pass  # the image's or a volume's own


def _make_link(folder: int, name: str, target: str) -> None:
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError:
        pass  # the image's or a volume's own


def _exists(folder: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _by_fd(fd: int) -> str:
    return f"/proc/self/fd/{fd}"
