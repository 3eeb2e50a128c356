"""What the host may want to know of this guest and its agent."""

from __future__ import annotations

import os

from kata.guest import files, storage
from kata.guest.health import AGENT_VERSION
from kata.rpc.pb import agent_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.guest import Guest

_MEMORY = "/sys/devices/system/memory"


def describe(request: pb.GuestDetailsRequest, guest: Guest) -> pb.GuestDetailsResponse:
    """Answer GetGuestDetails; what was not asked for is left at zero."""
    answer = pb.GuestDetailsResponse(
        agent_details=pb.AgentDetails(
            version=AGENT_VERSION,
            init_daemon=guest.is_ours,
            storage_handlers=sorted(storage.DRIVERS),
            # crun is built with it.
            supports_seccomp=True,
        )
    )
    if request.mem_block_size:
        # Hexadecimal without a prefix; no file, no memory hot-plug.
        size = files.find(f"{_MEMORY}/block_size_bytes")
        answer.mem_block_size_bytes = int(size, 16) if size else 0
    if request.mem_hotplug_probe:
        answer.support_mem_hotplug_probe = os.path.exists(f"{_MEMORY}/probe")
    return answer
