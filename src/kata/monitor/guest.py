"""What a guest may say of itself: which families, with which labels, and how many series.

Every series costs Prometheus memory for hours, also one that was shown once.  A guest that could
choose names and labels freely would fill it up, within the limits of each single scrape.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIXES = ("kata_agent_", "kata_guest_")
# Over the life of a sandbox.  A usual guest has 300, one of 256 processors 3 000, and each new
# interface or disk adds 16 or 17.
MAX_SERIES = 6_000
# Names of disks have at most 31 characters, those of interfaces 15, the kernel's counters 40.
MAX_VALUE = 64

_FAMILIES = {
    ("item",): (
        "kata_agent_io_stat",
        "kata_agent_proc_stat",
        "kata_agent_proc_status",
        "kata_guest_load",
        "kata_guest_meminfo",
        "kata_guest_tasks",
        "kata_guest_vm_stat",
    ),
    ("cpu", "item"): ("kata_guest_cpu_time",),
    ("disk", "item"): ("kata_guest_diskstat",),
    ("interface", "item"): ("kata_guest_netdev_stat",),
    (): (
        "kata_agent_scrape_count",
        "kata_agent_threads",
        "kata_agent_total_rss",
        "kata_agent_total_time",
        "kata_agent_total_vm",
        # What Prometheus's libraries of Rust and Go have of their own process.
        "kata_agent_process_cpu_seconds_total",
        "kata_agent_process_max_fds",
        "kata_agent_process_network_receive_bytes_total",
        "kata_agent_process_network_transmit_bytes_total",
        "kata_agent_process_open_fds",
        "kata_agent_process_resident_memory_bytes",
        "kata_agent_process_start_time_seconds",
        "kata_agent_process_threads",
        "kata_agent_process_virtual_memory_bytes",
        "kata_agent_process_virtual_memory_max_bytes",
    ),
}
# The labels of each family: upstream's (src/agent/src/metrics.rs), which are ours.
LABELS = {name: frozenset(labels) for labels, names in _FAMILIES.items() for name in names}


def has_sound_labels(name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether a family of LABELS has these, with values as they stand in the text."""
    return labels.keys() == LABELS[name] and all(len(v) <= MAX_VALUE for v in labels.values())


class Shown:
    """The series that a guest has shown so far.  Several threads may add to it."""

    def __init__(self) -> None:
        # Hashes take a tenth of the memory of what a hostile guest writes; two series of the same
        # are one in 10^12, and harmless.
        self._hashes: set[int] = set()

    def add(self, series: str) -> bool:
        """Note a series; False if it is one too many.  Threads may add one each beyond that."""
        number = hash(series)
        if number not in self._hashes:
            if len(self._hashes) >= MAX_SERIES:
                return False
            self._hashes.add(number)
        return True
