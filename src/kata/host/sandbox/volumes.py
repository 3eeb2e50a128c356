"""The volumes of a sandbox that are copied into its guest and kept in step."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from kata.base.errors import KataError
from kata.base.hostview import HostView
from kata.base.log import Logger
from kata.host.sandbox.mounts import WatchedMount
from kata.host.sandbox.undo import UndoStack
from kata.host.share.idmap import map_owners
from kata.host.share.watched import WatchedVolumes
from kata.rpc.pb.volumes_pb2 import VolumeEntry


class FollowedVolumes:
    """Follows nothing, and costs nothing, until the first volume comes."""

    def __init__(
        self, send: Callable[[str, Sequence[VolumeEntry]], None], undo: UndoStack, log: Logger
    ) -> None:
        """``send`` brings a volume's entries into the guest; ``undo`` ends the following."""
        self._send = send
        self._undo = undo
        self._log = log
        self._lock = threading.Lock()
        self._volumes: WatchedVolumes | None = None

    def follow(self, mounts: Sequence[WatchedMount], view: HostView) -> None:
        """Bring volumes into the guest, and their changes from now on."""
        for mount in mounts:
            with self._lock:
                if self._volumes is None:
                    self._volumes = WatchedVolumes(self._send, self._log)
                    self._undo.push("volumes", self._volumes.close)
                volumes = self._volumes
            volumes.add(mount.name, partial(_open, mount, view))


def _open(mount: WatchedMount, view: HostView) -> int:
    tree = view.clone(mount.source, recursive=True, follows=False)
    try:
        map_owners(tree, mount.owners, mount.source)
    except KataError:
        os.close(tree)
        raise
    return tree
