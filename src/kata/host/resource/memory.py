"""The host's memory: how much there is, and word of its getting short."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError

_INFO = "/proc/meminfo"
_PRESSURE = "/proc/pressure/memory"
# Somebody waited for memory for 0.3 s of the last 2 s, in microseconds; of other windows than
# multiples of 2 s only the privileged are told (Documentation/accounting/psi.rst).
_TRIGGER = b"some 300000 2000000\0"
# What has to stay free when spare machines are started.
_RESERVE = 0.1


def read_memory_mib(what: str, path: str = _INFO) -> int:
    """Return a line of /proc/meminfo, such as ``MemAvailable``."""
    with open(path) as file:
        for line in file:
            key, _, rest = line.partition(":")
            if key == what:
                return int(rest.split()[0]) >> 10
    raise KataError(f"read {path}: it has no {what}", Code.INTERNAL)


def check_spares(count: int, each_mib: int) -> None:
    """Raise FAILED_PRECONDITION when spare machines can never be in this host's memory.

    That even one cannot, is told where it is started.
    """
    total_mib = read_memory_mib("MemTotal")
    if each_mib <= total_mib < count * each_mib:
        raise KataError(
            f"vm_cache_number = {count}: {count} machines of {each_mib} MiB, overhead included,"
            f" are {count * each_mib} MiB, this host has {total_mib} MiB",
            Code.FAILED_PRECONDITION,
            f"at most {total_mib // each_mib} fit; lower vm_cache_number in [factory]",
        )


class MemoryWatch:
    """Tells when the host gets short of memory; a descriptor to poll for POLLPRI."""

    def __init__(self, path: str = _INFO) -> None:
        """``path`` is where the amounts are read."""
        self._path = path
        try:
            self._fd = os.open(_PRESSURE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fd, _TRIGGER)
        except OSError:
            self._fd = -1  # a kernel without it, or one that does not let us

    def fileno(self) -> int:
        """Return the descriptor; -1 where the kernel tells nothing."""
        return self._fd

    def has_room(self, needed_mib: int) -> bool:
        """Return whether so much more would leave the host its reserve."""
        reserve_mib = _RESERVE * read_memory_mib("MemTotal", self._path)
        return read_memory_mib("MemAvailable", self._path) >= needed_mib + reserve_mib
