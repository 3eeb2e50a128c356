"""A guest that is about to be saved as a template, and one that was started from it.

What is done before is done once for all copies; what must differ between them comes with the first
request that a copy gets, before anything else runs in it.
"""

from __future__ import annotations

import gc
import time

from kata.guest import clock, entropy, files
from kata.rpc.pb import template_pb2 as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from kata.guest.forker import Forker
    from kata.guest.guest import Guest
    from kata.guest.sandbox import Sandbox
    from kata.rpc.server import Method

# What nearly every sandbox needs sooner or later.
_MODULES = ("virtiofs", "overlay", "virtio_net", "virtio_blk")


# The smallest free part of memory that is given back to the host, as a power of two of pages.
_REPORTING_ORDER = "/sys/module/page_reporting/parameters/page_reporting_order"


class Template:
    """The service of that name."""

    def __init__(
        self, guest: Guest, forker: Forker | None, get_sandbox: Callable[[], Sandbox]
    ) -> None:
        self._guest = guest
        self._forker = forker
        self._get_sandbox = get_sandbox
        self._reporting_order = ""

    def methods(self) -> dict[str, Method]:
        """Return the service's table."""
        return {
            "Prepare": (pb.PrepareRequest, self._prepare),
            "Resume": (pb.ResumeRequest, self._resume),
            "Warm": (pb.WarmRequest, self._warm),
        }

    def _prepare(self, _: pb.PrepareRequest) -> Message:
        """Load what copies will need, and let go of what they will not."""
        self._guest.wait_ready()
        _load_code()
        if self._forker is not None:
            self._forker.load()
        if self._guest.is_ours:
            for name in _MODULES:
                self._guest.modules.load(name)
            self._reporting_order = files.find(_REPORTING_ORDER) or ""
            if self._reporting_order:
                # Every free page, for once: what they last held would be copied else.
                files.control(_REPORTING_ORDER, "0")
            files.control("/proc/sys/vm/drop_caches", "3")
            files.control("/proc/sys/vm/compact_memory", "1")
        gc.collect()
        gc.freeze()
        return pb.PrepareResponse()

    def _resume(self, request: pb.ResumeRequest) -> Message:
        if self._reporting_order:
            files.control(_REPORTING_ORDER, self._reporting_order.strip())
        seconds, rest_ns = divmod(request.time_ns, 1_000_000_000)
        clock.set_time(seconds, rest_ns // 1000, self._guest)
        entropy.reseed(request.seed)
        return pb.ResumeResponse(time_ns=time.time_ns())

    def _warm(self, request: pb.WarmRequest) -> Message:
        self._get_sandbox().warm(request.storages)
        return pb.WarmResponse()


def _load_code() -> None:
    from kata.guest import (  # noqa: F401
        copyfile,
        crun,
        devices,
        forward,
        native,
        network,
        oom,
        service,
        stats,
        storage,
        stuck,
        terminal,
        users,
        volumes,
    )
