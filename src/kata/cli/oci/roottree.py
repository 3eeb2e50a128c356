"""The root of a stand-in: mounts that are put together in its mount namespace, and then entered.

What the image and the volumes have in the way leads nowhere else: every path is resolved with that
root as ``/``, to a descriptor on which the next step works.  No device of the host's can be opened
below it but those that are placed.
"""

from __future__ import annotations

import errno
import os
import stat

from kata.base import defaultdevices, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LINKS = (*defaultdevices.LINKS, ("ptmx", "pts/ptmx"))
_FOLLOWING = frozenset({"slave", "rslave"})
# As the kernel's (path_resolution(7)).
_MAX_LINKS = 40
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644
# Room for names, of as many mount points as anybody has.
_SIZE = ("size=64k", "nr_inodes=4096")
_NO_PROGRAMS = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC
_NOTHING = _NO_PROGRAMS | syscalls.MOUNT_ATTR_NODEV


class RootTree:
    """The root that is being put together.  Owns its descriptors until it is entered."""

    def __init__(self, tree_fd: int, folder: str, owner: tuple[int, int]) -> None:
        """Attach a detached mount, which it takes, over ``folder``, which nobody looks into.

        Mount points that are missing are made, and belong to the ``owner`` (uid, gid).
        """
        syscalls.restrict_mount(tree_fd, syscalls.MOUNT_ATTR_NODEV, 0, recursive=True)
        syscalls.move_mount(tree_fd, folder)
        self._fd = tree_fd
        self._owner = owner
        # Made read-only when all mount points in them are there.
        self._late: list[int] = []

    def attach(self, tree_fd: int, target: str) -> None:
        """Place a detached mount; borrows it.  Raises OSError."""
        is_folder = stat.S_ISDIR(os.fstat(tree_fd).st_mode)
        place = self._resolve(target, "folder" if is_folder else "file")
        try:
            syscalls.move_mount_onto(tree_fd, place)
        finally:
            os.close(place)

    def attach_nothing(self, target: str, mode: str) -> None:
        """Place an empty folder that nobody can write; ``mode`` is tmpfs's option.

        Raises OSError.
        """
        tree = syscalls.make_mount("tmpfs", (mode, *_SIZE), _NOTHING)
        self._late.append(tree)
        self.attach(tree, target)

    def attach_devices(self, target: str) -> None:
        """Place a folder with the devices that every container has.  Raises OSError."""
        tree = syscalls.make_mount("tmpfs", (f"mode={_FOLDER_MODE:o}", *_SIZE), _NO_PROGRAMS)
        self._late.append(tree)
        for name, major, minor in defaultdevices.NODES:
            os.mknod(name, stat.S_IFCHR, os.makedev(major, minor), dir_fd=tree)
            os.chmod(name, 0o666, dir_fd=tree)
        for name, leads_to in _LINKS:
            os.symlink(leads_to, name, dir_fd=tree)
        self.attach(tree, target)

    def mask(self, path: str) -> None:
        """Hide what is at a path, as runc does, if there is something.  Raises OSError."""
        place = self._find(path)
        if place < 0:
            return
        try:
            if stat.S_ISDIR(os.fstat(place).st_mode):
                attributes = _NOTHING | syscalls.MOUNT_ATTR_RDONLY
                tree = syscalls.make_mount("tmpfs", _SIZE, attributes)
            else:
                tree = syscalls.clone_mount("/dev/null", syscalls.MS_PRIVATE, recursive=False)
            syscalls.move_mount_onto(tree, place)
            os.close(tree)
        finally:
            os.close(place)

    def protect(self, path: str) -> None:
        """Make what is at a path read-only, with all below, if it is there.  Raises OSError."""
        place = self._find(path)
        if place < 0:
            return
        try:
            tree = syscalls.clone_mount(
                f"/proc/self/fd/{place}", syscalls.MS_PRIVATE, recursive=True
            )
            syscalls.protect_mount(tree, recursive=True)
            syscalls.move_mount_onto(tree, place)
            os.close(tree)
        finally:
            os.close(place)

    def enter(self, *, read_only: bool) -> None:
        """Make it the root of all processes of this mount namespace, and take the other away."""
        for fd in (*self._late, *([self._fd] if read_only else [])):
            syscalls.protect_mount(fd, recursive=False)
        for fd in self._late:
            os.close(fd)
        _pivot(self._fd)

    def _open(self, path: str, flags: int = 0) -> int:
        inner = path.lstrip("/") or "."
        flags |= os.O_PATH | os.O_NOFOLLOW
        return syscalls.openat2(self._fd, inner, flags, resolve=syscalls.RESOLVE_IN_ROOT)

    def _resolve(self, path: str, missing: str = "") -> int:
        """Return a path's descriptor, having followed its links.  Raises OSError.

        Where there is nothing a folder is made, at its end what ``missing`` says ("file" or
        "folder"); without it that is a FileNotFoundError.
        """
        done, pending, links = "", path.split("/")[::-1], 0
        while pending:
            name = pending.pop()
            if name in ("", ".", ".."):
                # Of ``done`` no part is a link.
                done = os.path.dirname(done) if name == ".." else done
                continue
            try:
                fd = self._open(f"{done}/{name}")
            except FileNotFoundError:
                if not missing:
                    raise
                self._make(done, name, is_folder=missing == "folder" or any(pending))
                fd = self._open(f"{done}/{name}")
            is_link = stat.S_ISLNK(os.fstat(fd).st_mode)
            leads_to = os.readlink("", dir_fd=fd) if is_link else ""
            os.close(fd)
            if not is_link:
                done = f"{done}/{name}"
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            done = "" if leads_to.startswith("/") else done
            pending += leads_to.split("/")[::-1]
        return self._open(done)

    def _find(self, path: str) -> int:
        """Return a path's descriptor, -1 where there is nothing."""
        try:
            return self._resolve(path)
        except (FileNotFoundError, NotADirectoryError):
            return -1

    def _make(self, folder: str, name: str, *, is_folder: bool) -> None:
        above = self._open(folder, os.O_DIRECTORY)
        try:
            if is_folder:
                os.mkdir(name, _FOLDER_MODE, dir_fd=above)
            else:
                os.mknod(name, stat.S_IFREG | _FILE_MODE, dir_fd=above)
            os.chown(name, *self._owner, dir_fd=above, follow_symlinks=False)
        finally:
            os.close(above)


def clone_source(path: str, options: Iterable[str], *, recursive: bool) -> int:
    """Return a detached copy of what is mounted at a path of the host, which the caller owns.

    It follows what the host mounts there later if the options say so; nothing travels back.
    Raises OSError; what is neither a file nor a folder is refused.
    """
    follows = any(option in _FOLLOWING for option in options)
    propagation = syscalls.MS_SLAVE if follows else syscalls.MS_PRIVATE
    tree = syscalls.clone_mount(path, propagation, recursive=recursive)
    kind = stat.S_IFMT(os.fstat(tree).st_mode)
    if kind not in (stat.S_IFDIR, stat.S_IFREG):
        os.close(tree)
        raise OSError(0, "neither a file nor a folder")
    return tree


def clone_root(mounts_fd: int) -> int:
    """Return a detached copy of all that another mount namespace has; borrows its descriptor.

    The caller, which has one thread, is in its own namespace again afterwards, at the root.
    """
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.setns(mounts_fd, syscalls.CLONE_NEWNS)
    tree = syscalls.clone_mount("/", 0, recursive=True)
    syscalls.setns(own, syscalls.CLONE_NEWNS)
    os.close(own)
    return tree


def enter_root(tree_fd: int, folder: str) -> None:
    """Make a detached mount the root of this mount namespace, by way of ``folder``; takes it."""
    syscalls.move_mount(tree_fd, folder)
    _pivot(tree_fd)


def _pivot(tree_fd: int) -> None:
    os.fchdir(tree_fd)
    # Root and working folder of the others move along (pivot_root(2), "Notes").
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    os.close(tree_fd)
