"""How full a volume is."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.rpc.pb import csi_pb2


def measure(path: str) -> csi_pb2.VolumeStatsResponse:
    """Return bytes and inodes of the file system at ``path``, as the kubelet wants them."""
    if os.path.normpath(path) != path or not path.startswith("/"):
        raise KataError(f"measure volume: invalid path {path!r}", Code.INVALID_ARGUMENT)
    try:
        status = os.statvfs(path)
    except FileNotFoundError as error:
        raise KataError(f"measure volume: {path} does not exist", Code.NOT_FOUND) from error
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
