"""What containers find on a Debian node under containerd, in a guest: limits and kernel settings.

A kernel computes many of them from the memory that it boots with, which for a guest is little, and
more may be plugged in later.  So they are constants here; what they let a container take is counted
in its cgroup.  Called by ``init``.
"""

from __future__ import annotations

from kata.base.sysctls import ROOT
from kata.guest import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.base.log import Logger

_UNLIMITED = -1  # RLIM_INFINITY
# Of each process whose specification names no other.  containerd.service and docker.service of
# Debian 12: LimitNOFILE, LimitNPROC, LimitCORE; and what a kernel with 32 GiB has for signals.
LIMITS = (
    ("RLIMIT_NOFILE", 1 << 20),
    ("RLIMIT_NPROC", _UNLIMITED),
    ("RLIMIT_CORE", _UNLIMITED),
    ("RLIMIT_SIGPENDING", 1 << 17),
)
# In the order in which they are set.
SETTINGS = (
    # systemd: PID 1 raises these two as far as they go, for RLIMIT_NOFILE to decide.
    ("fs.nr_open", 1073741816),
    ("fs.file-max", (1 << 63) - 1),
    # systemd: sysctl.d/50-pid-max.conf, and as many threads.
    ("kernel.pid_max", 1 << 22),
    ("kernel.threads-max", 1 << 22),
    # Debian: sysctl.d/99-protect-links.conf.
    ("fs.protected_fifos", 1),
    ("fs.protected_hardlinks", 1),
    ("fs.protected_regular", 2),
    ("fs.protected_symlinks", 1),
    # What the kernel gives a node with 128 GiB; instances are a constant of it, which installers
    # of Kubernetes raise to this.
    ("fs.inotify.max_user_watches", 1 << 20),
    ("fs.inotify.max_user_instances", 8192),
    ("fs.fanotify.max_user_marks", 1 << 20),
    ("fs.epoll.max_user_watches", 1 << 22),
    # Elasticsearch, and distributions since.
    ("vm.max_map_count", 1048576),
    # kubelet.  The kernel's rule would compare with a guest's memory what is asked for on a node's.
    ("vm.overcommit_memory", 1),
)


def raise_limits() -> None:
    """Raise this process's limits, which everything inherits.  Raises OSError."""
    import resource

    for name, value in LIMITS:
        resource.setrlimit(getattr(resource, name), (value, value))


def apply_settings(log: Logger) -> None:
    """Set the kernel; what it does not have is logged."""
    for name, value in SETTINGS:
        try:
            files.control(f"{ROOT}/{name.replace('.', '/')}", str(value))
        except OSError as error:
            log.warning("kernel setting failed", name=name, error=error)
