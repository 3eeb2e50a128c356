"""Storages: what the host asks to be mounted in the guest before a container starts.

One table says which driver is mounted how.  A mount point that several containers name is mounted
once and counted; the last container to go unmounts it, unless the driver's storages live as long
as the sandbox (an emptyDir outlives the restart of a container).
"""

from __future__ import annotations

import errno
import os
import stat
import threading

from kata.base import syscalls
from kata.base.errors import Code, KataError, describe_error
from kata.base.mountoptions import mount, parse_options
from kata.guest.ports import Uevents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeAlias

    from kata.base.log import Logger
    from kata.rpc.pb.agent_pb2 import Storage

    Prepare: TypeAlias = Callable[[Storage], None]

# From the plugging in of a device to the end of its driver's probe; a loaded, emulated host takes
# seconds.
_DEVICE_TIMEOUT_S = 20.0
CREATE_DIRECTORY = "io.katacontainers.volume.overlayfs.create_directory="


class Driver:
    """How storages of one kind are mounted and given back."""

    __slots__ = ("flush", "keep", "module", "mounted", "prepare")

    def __init__(
        self,
        prepare: Prepare,
        *,
        module: str = "",
        mounted: bool = True,
        keep: bool = False,
        flush: bool = False,
    ) -> None:
        """``module`` is loaded first; ``keep`` holds the storage until the sandbox ends.

        ``flush`` writes everything back before it goes: the host takes the device then, also if
        something in the guest still holds the file system.
        """
        self.prepare = prepare
        self.flush = flush
        self.module = module
        self.mounted = mounted
        self.keep = keep


class Storages:
    """The storages of a sandbox."""

    def __init__(self, load_module: Callable[[str], None], log: Logger) -> None:
        self._load_module = load_module
        self._log = log
        self._lock = threading.Lock()
        self._users: dict[str, int] = {}
        self._drivers: dict[str, Driver] = {}

    def add_all(self, storages: Iterable[Storage]) -> list[str]:
        """Mount storages in order and return their mount points; undone when one fails."""
        added: list[str] = []
        try:
            for storage in storages:
                self._add(storage)
                added.append(storage.mount_point)
        except BaseException:
            self.release_all(added)
            raise
        return added

    def release_all(self, mount_points: Sequence[str]) -> None:
        """Give mount points back, the last first.  A failure is logged; the others go on."""
        for mount_point in reversed(mount_points):
            try:
                self._release(mount_point)
            except OSError as error:
                self._log.warning(
                    "storage not unmounted", path=mount_point, error=describe_error(error)
                )

    def close(self) -> None:
        """Unmount everything that is left, the last first."""
        with self._lock:
            left = list(self._users)
            self._users.update(dict.fromkeys(left, 1))
            for mount_point in left:
                self._drivers[mount_point].keep = False
        self.release_all(left)

    def check_known(self, mount_point: str) -> str:
        """Return a storage's mount point.  Raises NOT_FOUND when it is none."""
        with self._lock:
            known = mount_point in self._users
        if not known:
            raise KataError(f"find storage: no storage at {mount_point!r}", Code.NOT_FOUND)
        return mount_point

    def resize(self, storages: Iterable[Storage]) -> None:
        """Change the size of ephemeral storages that are mounted already."""
        for storage in storages:
            with self._lock:
                known = storage.mount_point in self._users
            if storage.driver != "ephemeral" or not known:
                raise KataError(
                    f"resize storage {storage.mount_point}: no such ephemeral storage",
                    Code.NOT_FOUND,
                )
            options = parse_options([*_file_system_options(storage), "remount"])
            mount(storage.source, storage.mount_point, storage.fstype, options)

    def _add(self, storage: Storage) -> None:
        driver = get_driver(storage.driver)
        check_mount_point(storage.mount_point)
        # One lock for all storages: mounting takes milliseconds, and two containers that name the
        # same mount point must not race.
        with self._lock:
            users = self._users.get(storage.mount_point, 0)
            if not users:
                self._mount(driver, storage)
                self._drivers[storage.mount_point] = Driver(
                    driver.prepare, mounted=driver.mounted, keep=driver.keep, flush=driver.flush
                )
            self._users[storage.mount_point] = users + 1

    def _mount(self, driver: Driver, storage: Storage) -> None:
        try:
            if driver.module:
                self._load_module(driver.module)
            driver.prepare(storage)
        except OSError as error:
            raise KataError(
                f"mount storage {storage.driver} {storage.source} on {storage.mount_point}:"
                f" {error.strerror}",
                Code.INTERNAL,
            ) from error
        try:
            _give_to_group(storage)
        except OSError as error:
            if driver.mounted:
                syscalls.umount(storage.mount_point, syscalls.MNT_DETACH)
            raise KataError(
                f"give storage {storage.mount_point} to group {storage.fs_group.group_id}:"
                f" {error.strerror}",
                Code.INTERNAL,
            ) from error

    def _release(self, mount_point: str) -> None:
        with self._lock:
            users = self._users.get(mount_point, 0)
            driver = self._drivers.get(mount_point)
            if users == 0 or driver is None:
                return
            self._users[mount_point] = users - 1
            if users > 1 or driver.keep:
                self._users[mount_point] = max(users - 1, 1)
                return
            del self._users[mount_point], self._drivers[mount_point]
            if driver.flush:
                os.sync()
            if driver.mounted:
                syscalls.umount(mount_point, syscalls.MNT_DETACH)


def get_driver(name: str) -> Driver:
    """Return the driver of a name.  Raises UNIMPLEMENTED."""
    driver = DRIVERS.get(name)
    if driver is None:
        raise KataError(
            f"mount storage: driver {name!r} is not supported by this agent", Code.UNIMPLEMENTED
        )
    return driver


def check_mount_point(path: str) -> None:
    """Raise INVALID_ARGUMENT unless ``path`` is absolute, without ``..`` and not the root."""
    if not path.startswith("/") or "\0" in path or os.path.normpath(path) != path or path == "/":
        raise KataError(f"mount storage: invalid mount point {path!r}", Code.INVALID_ARGUMENT)


def _mount_virtiofs(storage: Storage) -> None:
    """Mount a shared folder; its device may have been plugged in just now."""
    os.makedirs(storage.mount_point, exist_ok=True)
    options = parse_options(storage.options)
    refusals: list[OSError] = []

    def attempt() -> str | None:
        try:
            mount(storage.source, storage.mount_point, "virtiofs", options)
        except OSError as error:
            if error.errno != errno.EINVAL:  # what the driver says of a tag that no device has
                raise
            refusals.append(error)
            return None
        return storage.mount_point

    uevents = Uevents()
    try:
        if uevents.wait_for(attempt, _DEVICE_TIMEOUT_S) is None:
            raise refusals[-1]
    finally:
        uevents.close()


def _mount_disk(storage: Storage) -> None:
    """Mount a disk that is being plugged in; the source is its PCI path."""
    from kata.guest.devices import wait_for_disk

    os.makedirs(storage.mount_point, exist_ok=True)
    node = wait_for_disk(storage.source)
    mount(node, storage.mount_point, storage.fstype, parse_options(storage.options))


def _mount_overlay(storage: Storage) -> None:
    for option in storage.driver_options:
        if option.startswith(CREATE_DIRECTORY):
            os.makedirs(option[len(CREATE_DIRECTORY) :], exist_ok=True)
    os.makedirs(storage.mount_point, exist_ok=True)
    options = parse_options(storage.options)
    mount(storage.source or "overlay", storage.mount_point, "overlay", options)


def _mount_bind(storage: Storage) -> None:
    if os.path.isdir(storage.source):
        os.makedirs(storage.mount_point, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(storage.mount_point), exist_ok=True)
        os.close(os.open(storage.mount_point, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
    options = parse_options([*storage.options, "bind"])
    mount(storage.source, storage.mount_point, "", options)


def _mount_ephemeral(storage: Storage) -> None:
    os.makedirs(storage.mount_point, exist_ok=True)
    options = parse_options(_file_system_options(storage))
    mount(storage.source or "tmpfs", storage.mount_point, storage.fstype or "tmpfs", options)
    try:
        _own_by_option(storage)
    except OSError:
        syscalls.umount(storage.mount_point, syscalls.MNT_DETACH)
        raise


def _make_local(storage: Storage) -> None:
    os.makedirs(storage.mount_point, exist_ok=True)
    os.chmod(storage.mount_point, int(_option(storage, "mode") or "777", 8))
    _own_by_option(storage)


def _own_by_option(storage: Storage) -> None:
    """Honour ``fsgid=``, which upstream's host sends for memory-backed volumes, and ``uid=``."""
    user, group = _option(storage, "uid"), _option(storage, "fsgid")
    if user or group:
        os.chown(storage.mount_point, int(user or -1), int(group or -1))
    if group:
        mode = stat.S_IMODE(os.stat(storage.mount_point).st_mode)
        os.chmod(storage.mount_point, mode | stat.S_ISGID)


def _option(storage: Storage, name: str) -> str:
    for option in storage.options:
        key, _, value = option.partition("=")
        if key == name:
            return value
    return ""


def _file_system_options(storage: Storage) -> list[str]:
    return [option for option in storage.options if not option.startswith("fsgid=")]


def _give_to_group(storage: Storage) -> None:
    if storage.HasField("fs_group"):
        from kata.guest import fsgroup

        fsgroup.own(
            storage.mount_point,
            storage.fs_group.group_id,
            "ro" in storage.options,
            storage.fs_group.group_change_policy == 1,  # OnRootMismatch
        )


DRIVERS = {
    "virtio-fs": Driver(_mount_virtiofs, module="virtiofs"),
    "blk": Driver(_mount_disk, module="virtio_blk", flush=True),
    "overlayfs": Driver(_mount_overlay, module="overlay"),
    "overlay": Driver(_mount_overlay, module="overlay"),
    "bind": Driver(_mount_bind),
    "ephemeral": Driver(_mount_ephemeral, keep=True),
    "local": Driver(_make_local, mounted=False, keep=True),
}
