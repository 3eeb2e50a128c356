"""``delete``: clean up after a shim that does not answer; prints a DeleteResponse (protobuf)."""

from __future__ import annotations

import os
import sys
import time

from kata.base.ids import check_id
from kata.host.sandbox.cleanup import clean_up, unmount_rootfs
from kata.host.shim import address
from kata.host.shim.events import to_timestamp
from kata.rpc.pb import task_pb2

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.host.shim.arguments import Arguments

# As if killed, which is what happened to whatever ran.
_EXIT_STATUS = 137


def delete(arguments: Arguments) -> None:
    """End everything a sandbox left and tell containerd how its task ended."""
    check_id("container", arguments.id)
    path = address.socket_path(arguments.address, arguments.namespace, arguments.id)
    for failure in clean_up(arguments.id, owner=path):
        print(f"clean up {arguments.id}: {failure}", file=sys.stderr)
    unmount_rootfs(arguments.bundle)
    if os.path.exists(path) and not address.is_answering(path):
        os.unlink(path)
    response = task_pb2.DeleteResponse(
        exit_status=_EXIT_STATUS, exited_at=to_timestamp(time.time_ns())
    )
    sys.stdout.buffer.write(response.SerializeToString())
