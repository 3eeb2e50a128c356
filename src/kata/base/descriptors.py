"""How many files a program that is started here may have open."""

from __future__ import annotations

import resource

# Enough for any tree of files; virtiofsd's own default.
_MOST = 1_000_000
# What a host should allow.
ENOUGH_FILES = 100_000
_CAP_SYS_RESOURCE = 24


def find_file_limit() -> int:
    """Return how many descriptors a virtiofsd may have here.

    Only CAP_SYS_RESOURCE allows more than the hard limit of who started us, up to the kernel's.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with open("/proc/self/status", encoding="ascii") as file:
        effective = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if effective & (1 << _CAP_SYS_RESOURCE):
        with open("/proc/sys/fs/nr_open", encoding="ascii") as file:
            hard = int(file.read())
    return min(_MOST, hard)
