"""The root file system of a container, mounted as the engine describes it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from kata.base import mountoptions, syscalls
from kata.base.errors import Code, KataError
from kata.base.idmap import UNMAPPED, IdMaps
from kata.host.share import layout
from kata.host.share.idmap import map_by, take_maps, user_namespace

_LOWER = "lowerdir="
# mount(2) takes one page of data, with its end.
_MAX_DATA_BYTES = 4095


@dataclass(frozen=True, slots=True)
class RootfsMount:
    """One mount of the root file system, as containerd describes it."""

    fstype: str
    source: str
    options: tuple[str, ...]


def mount_rootfs(target: str, mounts: tuple[RootfsMount, ...], scratch: str) -> None:
    """Mount one after another on ``target``.

    ``scratch`` is a folder for the while, made and removed here.  Raises KataError; what is mounted
    by then is the caller's to unmount.
    """
    for mount in mounts:
        options, maps = take_maps(mount.options)
        plain = replace(mount, options=options)
        try:
            if maps == UNMAPPED:
                _mount(plain, target)
            elif mount.fstype == "overlay":
                _mount_mapped_overlay(plain, target, maps, scratch)
            else:
                _mount_mapped(plain, target, maps, scratch)
        except OSError as error:
            raise KataError(f"mount rootfs {target}: {error}", Code.INTERNAL) from error


def _mount(mount: RootfsMount, target: str) -> None:
    """Mount; an overlay with more layers than the kernel takes is given short names of them."""
    options = mountoptions.parse_options(mount.options)
    lowers = _lower_folders(mount)
    if len(os.fsencode(options.data)) <= _MAX_DATA_BYTES or len(lowers) < 2:
        mountoptions.mount(mount.source, target, mount.fstype, options)
        return
    common = os.path.commonpath(lowers)
    shorter = _with_lowers(mount, [os.path.relpath(lower, common) for lower in lowers])
    options = mountoptions.parse_options(shorter.options)
    _run_in(common, lambda: mountoptions.mount(mount.source, target, mount.fstype, options))


def _mount_mapped(mount: RootfsMount, target: str, maps: IdMaps, scratch: str) -> None:
    """Mount, and map the whole of it."""
    os.makedirs(scratch, mode=0o700, exist_ok=True)
    try:
        _mount(mount, scratch)
        try:
            with user_namespace(maps) as users_fd:
                _attach_mapped(users_fd, scratch, target, recursive=True)
        finally:
            layout.unmount_below(scratch)
    finally:
        os.rmdir(scratch)


def _mount_mapped_overlay(mount: RootfsMount, target: str, maps: IdMaps, scratch: str) -> None:
    """Mount an overlay of mapped layers; the engine owns the upper one as the map says.

    The overlay keeps its layers: their mounts may go when it is made.
    """
    names = []
    try:
        with user_namespace(maps) as users_fd:
            for index, lower in enumerate(_lower_folders(mount)):
                names.append(f"{scratch}/{index}")
                os.makedirs(names[-1], mode=0o700)
                _attach_mapped(users_fd, lower, names[-1], recursive=False)
        _mount(_with_lowers(mount, names), target)
    finally:
        layout.unmount_below(scratch)
        layout.remove_skeleton(scratch)


def _attach_mapped(users_fd: int, source: str, target: str, *, recursive: bool) -> None:
    tree = syscalls.clone_mount(source, syscalls.MS_PRIVATE, recursive=recursive)
    try:
        map_by(users_fd, tree, source, recursive=recursive)
        syscalls.move_mount(tree, target)
    finally:
        os.close(tree)


def _lower_folders(mount: RootfsMount) -> list[str]:
    if mount.fstype != "overlay":
        return []
    found = [option for option in mount.options if option.startswith(_LOWER)]
    return found[0][len(_LOWER) :].split(":") if found else []


def _with_lowers(mount: RootfsMount, lowers: list[str]) -> RootfsMount:
    rest = [option for option in mount.options if not option.startswith(_LOWER)]
    return replace(mount, options=(f"{_LOWER}{':'.join(lowers)}", *rest))


def _run_in(folder: str, function: Callable[[], None]) -> None:
    """Call a function with a working directory of its own: that of a thread that ends with it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_FS)
            os.chdir(folder)
            function()
        except BaseException as error:  # noqa: BLE001  # raised again by the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="mount")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
