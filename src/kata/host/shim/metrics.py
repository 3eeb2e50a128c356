"""A sandbox's metrics: of its processes on the host, its guest, its calls, its overhead.

Names and labels are upstream's; docs/monitoring.md lists them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from kata.base.errors import KataError, describe_error
from kata.base.exposition import GAUGE, HISTOGRAM, one, render_families
from kata.base.log import Logger
from kata.base.procmetrics import ProcessFiles, describe_process, read_network
from kata.host.sandbox.sandbox import Sandbox
from kata.host.shim.overhead import CpuOverhead, GuestUse, memory_overhead
from kata.rpc.durations import Durations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.exposition import Family, Sample

# What may come from the guest, in this form; a guest is not trusted with others' families.
_GUEST = tuple(
    f"{start}kata_{part}_" for start in ("", "# HELP ", "# TYPE ") for part in ("agent", "guest")
)
_GUEST_BYTES = 1 << 20
# Of a program's processes.
_FIRST, _LAST = slice(0, 1), slice(-1, None)
# A guest that hangs delays the host's part no longer than that: Prometheus has deadlines as well.
_GUEST_S = 2.0


class Metrics:
    """Renders them when asked; costs nothing otherwise."""

    def __init__(
        self,
        sandbox: Sandbox,
        list_uses: Callable[[float], Sequence[GuestUse]],
        durations: Durations,
        log: Logger,
    ) -> None:
        """``list_uses`` asks the guest what its containers use, and has a deadline.

        ``durations`` are those of the engine's calls.
        """
        self._sandbox = sandbox
        self._list_uses = list_uses
        self._durations = durations
        self._log = log
        self._lock = threading.Lock()
        self._cpu = CpuOverhead(self._list_pids(), time.monotonic())

    def render(self) -> str:
        """Return all families; what the guest does not tell in time is left out."""
        deadline = time.monotonic() + _GUEST_S
        return render_families(self._families(deadline)) + self._render_guest(deadline)

    def _families(self, deadline: float) -> Iterator[Family]:
        shim = ProcessFiles("self")
        yield from describe_process("kata_shim", "shim", shim)
        yield from shim.families("kata_shim", "shim")
        calls = self._durations.samples()
        name = "kata_shim_rpc_durations_histogram_milliseconds"
        yield name, HISTOGRAM, "durations of the engine's calls", _in_snake_case(calls)
        calls = self._sandbox.machine.durations.samples()
        name = "kata_shim_agent_rpc_durations_histogram_milliseconds"
        yield name, HISTOGRAM, "durations of calls of the agent", calls
        yield from self._host(deadline)

    def _host(self, deadline: float) -> Iterator[Family]:
        families = self._sandbox.machine.families()
        try:
            for role, which, prefix, what in (
                ("qemu", _FIRST, "kata_hypervisor", "hypervisor"),
                # Its first process only waits for the second.
                ("virtiofsd", _LAST, "kata_virtiofsd", "file server"),
            ):
                for pid in families.get(role, [])[which]:
                    yield from describe_process(prefix, what, ProcessFiles(pid))
            # Elsewhere it sees the host's network, which each sandbox would tell again.
            for pid in families.get("qemu", [])[_FIRST] if self._sandbox.pod.netns_path else ():
                text = "/proc/<pid>/net/dev of the hypervisor"
                yield "kata_hypervisor_netdev", GAUGE, text, read_network(pid)
            yield from self._overhead(deadline)
        except (OSError, KataError) as error:
            # The machine ends while its metrics are read, or its agent hangs.
            self._log.debug("metrics left out", error=describe_error(error))

    def _overhead(self, deadline: float) -> Iterator[Family]:
        pids = self._list_pids()
        uses = self._list_uses(deadline)
        text = "host memory of the pod beyond what its containers use, in bytes"
        name = "kata_shim_pod_overhead_memory_in_bytes"
        yield name, GAUGE, text, one(memory_overhead(pids, uses))
        text = "processor time of the pod beyond what its containers use, in percent of one"
        with self._lock:
            percent = self._cpu.measure(pids, uses, time.monotonic())
        yield "kata_shim_pod_overhead_cpu", GAUGE, text, one(percent)

    def _list_pids(self) -> list[int]:
        return [os.getpid(), *self._sandbox.machine.processes()]

    def _render_guest(self, deadline: float) -> str:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return ""  # it has not answered before
        try:
            text = self._sandbox.agent.get_metrics(left_s)
        except KataError as error:
            self._log.info("no metrics of the guest", error=describe_error(error))
            return ""
        if len(text.encode()) > _GUEST_BYTES:
            self._log.warning("metrics of the guest left out", reason="too many bytes")
            return ""
        # Printable: it may be shown on a terminal.
        lines = (line for line in text.split("\n") if line.startswith(_GUEST))
        return "".join(f"{line}\n" for line in lines if line.isprintable())


def _in_snake_case(samples: Iterator[Sample]) -> Iterator[Sample]:
    """Call the methods as upstream does: ``CloseIO`` is close_io."""
    for ending, ((key, name), *labels), value in samples:
        yield ending, ((key, snake_case(name)), *labels), value


def snake_case(name: str) -> str:
    """Return a method's name in small letters, an underscore before each new word."""
    return "".join(
        f"_{letter}" if letter.isupper() and index and name[index - 1].islower() else letter
        for index, letter in enumerate(name)
    ).lower()
