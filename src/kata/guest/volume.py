"""A volume's file system: how full it is, and its growth when its device has grown.

The paths are mount points of storages; whoever calls has made sure of that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from kata.base import syscalls
from kata.base.errors import Code, KataError
from kata.base.mountinfo import list_mounts
from kata.guest import files
from kata.guest.ports import Uevents
from kata.rpc.pb import csi_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Grow = Callable[[int, int], None]

_RESOLVE = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS
_SECTOR_BYTES = 512
# The host tells the guest's driver of a new size, and then the agent.
_GROWN_S = 3.0
# fs/ext4/ext4.h: EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64)
_EXT4_IOC_RESIZE_FS = 0x40086610
# fs/xfs/libxfs/xfs_fs.h: XFS_IOC_FSGEOMETRY_V1, _IOR('X', 100, struct xfs_fsop_geom_v1), and
# XFS_IOC_FSGROWFSDATA, _IOW('X', 110, struct xfs_growfs_data)
_XFS_IOC_FSGEOMETRY_V1 = 0x80705864
_XFS_IOC_FSGROWFSDATA = 0x4010586E
_XFS_GEOMETRY = struct.Struct("I24xIQ72x")  # blocksize, imaxpct, datablocks
_XFS_GROWTH = struct.Struct("QI4x")  # newblocks, imaxpct


def measure(path: str) -> csi_pb2.VolumeStatsResponse:
    """Return bytes and inodes of the file system at ``path``, as the kubelet wants them."""
    fd = _open("measure", path, os.O_PATH)
    try:
        status = os.statvfs(fd)
    finally:
        os.close(fd)
    usage = (
        csi_pb2.VolumeUsage(
            available=status.f_bavail * status.f_frsize,
            total=status.f_blocks * status.f_frsize,
            used=(status.f_blocks - status.f_bfree) * status.f_frsize,
            unit=csi_pb2.VolumeUsage.BYTES,
        ),
        csi_pb2.VolumeUsage(
            available=status.f_favail,
            total=status.f_files,
            used=status.f_files - status.f_ffree,
            unit=csi_pb2.VolumeUsage.INODES,
        ),
    )
    return csi_pb2.VolumeStatsResponse(
        usage=usage, volume_condition=csi_pb2.VolumeCondition(message="volume is mounted")
    )


def resize(path: str, size: int) -> None:
    """Grow the file system at ``path`` to the size of its device; one of that size stays.

    Raises OUT_OF_RANGE when the device has less than ``size`` bytes, UNIMPLEMENTED for a file
    system that cannot grow while it is in use.
    """
    fd = _open("resize", path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fstype = _find_type(path)
        grow = GROWING.get(fstype)
        if grow is None:
            raise KataError(
                f"resize volume {path}: not possible with {fstype or 'no file system of its own'}",
                Code.UNIMPLEMENTED,
            )
        device_bytes = _wait_for_bytes(os.fstat(fd).st_dev, size)
        if device_bytes < size:
            raise KataError(
                f"resize volume {path}: its device has {device_bytes} bytes, not {size}",
                Code.OUT_OF_RANGE,
            )
        grow(fd, device_bytes)
    except OSError as error:
        raise KataError(f"resize volume {path}: {error.strerror}", Code.INTERNAL) from error
    finally:
        os.close(fd)


def _grow_ext4(fd: int, device_bytes: int) -> None:
    blocks = device_bytes // os.statvfs(fd).f_bsize
    fcntl.ioctl(fd, _EXT4_IOC_RESIZE_FS, struct.pack("Q", blocks))


def _grow_xfs(fd: int, device_bytes: int) -> None:
    geometry = fcntl.ioctl(fd, _XFS_IOC_FSGEOMETRY_V1, bytes(_XFS_GEOMETRY.size))
    block_bytes, inodes_percent, blocks = _XFS_GEOMETRY.unpack(geometry)
    wanted = device_bytes // block_bytes
    if wanted > blocks:
        fcntl.ioctl(fd, _XFS_IOC_FSGROWFSDATA, _XFS_GROWTH.pack(wanted, inodes_percent))


GROWING: dict[str, Grow] = {"ext4": _grow_ext4, "xfs": _grow_xfs}


def _open(verb: str, path: str, flags: int) -> int:
    """Open a path that has no links; returns a descriptor the caller owns.  Raises KataError."""
    try:
        return syscalls.openat2(-1, path, flags, resolve=_RESOLVE)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
            raise
        raise KataError(
            f"{verb} volume {path}: {os.strerror(error.errno)}",
            Code.NOT_FOUND if error.errno == errno.ENOENT else Code.INVALID_ARGUMENT,
        ) from error


def _find_type(path: str) -> str:
    """Return the type of the file system mounted last on ``path``; empty for none."""
    return next((mount.fstype for mount in reversed(list_mounts()) if mount.point == path), "")


def _wait_for_bytes(device: int, size: int) -> int:
    """Return a device's size once it is at least ``size``, or as it is when it stays smaller."""
    uevents = Uevents()
    try:
        uevents.wait_for(lambda: str(device) if _device_bytes(device) >= size else None, _GROWN_S)
    finally:
        uevents.close()
    return _device_bytes(device)


def _device_bytes(device: int) -> int:
    folder = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    return int(files.read(f"{folder}/size")) * _SECTOR_BYTES
