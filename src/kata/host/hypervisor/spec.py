"""What a virtual machine consists of: records that a driver turns into its own arguments."""

from __future__ import annotations

from dataclasses import dataclass

NEW_NETNS = "new"


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """A folder served by virtiofsd: its tag in the guest and the queue's size (power of two)."""

    tag: str
    queue_size: int


@dataclass(frozen=True, slots=True)
class VmSpec:
    """A machine to start.  Sizes are in MiB; paths are of the host."""

    name: str
    binary: str
    machine_type: str
    accelerator: str  # "kvm" or "tcg"
    machine_options: str
    cpu_features: str
    vcpus: int
    memory_mib: int
    memory_folder: str
    kernel: str
    initrd: str  # empty: the root is in ``image``
    kernel_params: tuple[str, ...]
    seccomp: str
    entropy_source: str
    root_ports: int
    share: SharedFolder | None
    vsock_cid: int | None  # None: the agent's channel is a virtio-serial port
    firmware: str = ""  # empty: the hypervisor's own
    reclaim: bool = True  # memory that the guest does not use goes back to the host
    # Where the machine's process runs; empty: where its starter does; NEW_NETNS: in a new one.
    image: str = ""  # a file system that the guest maps as memory, read-only
    netns_path: str = ""


@dataclass(frozen=True, slots=True)
class LentFds:
    """Descriptors that a machine starts with, borrowed; -1 where it has none.

    ``share`` is virtiofsd's socket, ``vsock`` the vhost device, ``memory`` a file of the guest's
    memory, of its whole size, that others can map as well.
    """

    share: int = -1
    vsock: int = -1
    memory: int = -1


@dataclass(frozen=True, slots=True)
class NetworkDevice:
    """A network card to plug in.  ``tap_fd`` is borrowed; the machine gets a copy."""

    id: str
    mac: str
    tap_fd: int
    queues: int = 1


@dataclass(frozen=True, slots=True)
class BlockDevice:
    """A disk to plug in; ``path`` is a file or block device of the host.

    QEMU limits the name of a block node, which is made of the id, to 31 bytes: an id of a container
    is too long to be part of it.
    """

    id: str
    path: str
    read_only: bool
    raw_device: bool


@dataclass(frozen=True, slots=True)
class GuestStreams:
    """Our ends of a machine's streams; each is owned by whoever takes it from here."""

    agent_fd: int  # -1 when the agent listens on vsock
    console_fd: int
    agent_log_fd: int
    stderr_fd: int
