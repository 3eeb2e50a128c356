"""The configuration as typed records; at the same time the one table of settings.

Each field carries its key, default, documentation and check.  The parser, the shipped
configuration.toml and the error messages are made from these fields; a new setting is one entry
here.  Sections, keys and, where a comment does not say otherwise, defaults are Kata Containers'.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kata.config import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T", bool, int, float, str, tuple[str, ...])

SHARE = "/usr/share/kata-containers"
NOT_YET = "is not supported yet"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one key besides its field: ``key`` as users write it."""

    key: str
    documentation: str
    check: checks.Check
    aliases: tuple[tuple[bool, str], ...] = ()


def setting(
    default: T,
    documentation: str,
    check: checks.Check = checks.anything,
    key: str = "",
    aliases: tuple[tuple[bool, str], ...] = (),
) -> T:
    """Declare a field.  ``key`` is given where the field's name adds a unit to it.

    ``aliases`` are booleans that stand for a word.
    """
    facts = Setting(key, documentation, check, aliases)
    field: T = dataclasses.field(default=default, metadata={"setting": facts})
    return field


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervisorConfig:
    """Section ``hypervisor.qemu``."""

    path: str = setting("/usr/bin/qemu-system-x86_64", "QEMU's program.", checks.absolute_path)
    kernel: str = setting(
        f"{SHARE}/vmlinux.container",
        "The guest's kernel. An uncompressed ELF file starts faster than a bzImage.",
        checks.absolute_path,
    )
    initrd: str = setting(
        f"{SHARE}/kata-containers-initrd.img",
        "The guest's file system, with the agent in it, as an initrd; `kata-image build` makes it.",
        checks.absolute_path_or_empty,
    )
    image: str = setting(
        "",
        "The same as an image, which all guests share by the host's page cache, in place of "
        f"initrd: {SHARE}/kata-containers.img, with a kernel of `kata-image kernel`: "
        "docs/kernel.md.",
        checks.absolute_path_or_empty,
    )
    firmware: str = setting(
        "", "Firmware for the VM; empty for QEMU's own.", checks.absolute_path_or_empty
    )
    machine_type: str = setting("q35", "QEMU's machine type.", checks.one_of("q35"))
    accel: str = setting(
        "auto",
        '"kvm", "tcg" (emulation, slow), or "auto": KVM where it works, else TCG with a warning. '
        "Only here, not in upstream's file.",
        checks.one_of("auto", "kvm", "tcg"),
    )
    machine_accelerators: str = setting(
        "", "Options appended to QEMU's -machine, separated by commas.", checks.one_line
    )
    cpu_features: str = setting(
        "pmu=off", "Options appended to QEMU's -cpu, separated by commas.", checks.one_line
    )
    kernel_params: str = setting(
        "",
        "Parameters appended to the kernel's command line; they win over the built-in ones.",
        checks.one_line,
    )
    default_vcpus: float = setting(
        1.0,
        "Virtual CPUs that a sandbox has besides those of its containers' limits; below zero: all "
        "of the host.",
        checks.between(-1, 1024),
    )
    default_maxvcpus: int = setting(
        0,
        "The most virtual CPUs that a sandbox may get; 0: all of the host.",
        checks.between(0, 1024),
    )
    default_memory_mib: int = setting(
        512,
        "Memory in MiB that a sandbox has besides its containers' limits. Upstream's 2048 is room "
        "for a guest with systemd; this guest idles below 100 MiB, and with virtio-fs the memory "
        "must fit into file_mem_backend as a whole.",
        checks.between(128, 1 << 24, "MiB"),
        key="default_memory",
    )
    memory_slots: int = setting(
        10, "How often memory can be added while the sandbox runs.", checks.between(0, 256)
    )
    default_maxmemory_mib: int = setting(
        0,
        "The most memory in MiB that a sandbox may get; 0: all of the host.",
        checks.between(0, 1 << 30, "MiB"),
        key="default_maxmemory",
    )
    file_mem_backend: str = setting(
        "/dev/shm",
        "Folder for the guest's memory where another process (virtiofsd) must see it.",
        checks.absolute_path_or_empty,
    )
    shared_fs: str = setting(
        "virtio-fs",
        'How the guest sees files of the host: "virtio-fs".',
        checks.only("virtio-fs", NOT_YET),
    )
    virtio_fs_daemon: str = setting(
        "",
        "virtiofsd's program; empty: the first of /usr/libexec/virtiofsd, "
        "/opt/kata/virtiofsd/virtiofsd and /usr/lib/qemu/virtiofsd that exists.",
        checks.absolute_path_or_empty,
    )
    virtio_fs_cache: str = setting(
        "auto",
        "What the guest may cache of shared files.",
        checks.one_of("auto", "always", "metadata", "never", "none"),
    )
    virtio_fs_cache_size_mib: int = setting(
        0,
        "Size in MiB of the window for direct access (DAX); 0: none.",
        checks.only(0, NOT_YET),
        key="virtio_fs_cache_size",
    )
    virtio_fs_queue_size: int = setting(
        1024, "Length of the file system device's queue.", checks.power_of_two(64, 1024)
    )
    virtio_fs_extra_args: tuple[str, ...] = setting(
        (),
        "Further arguments of virtiofsd. Upstream's defaults are set where the daemon knows them.",
        checks.one_line,
    )
    block_device_driver: str = setting(
        "virtio-scsi",
        "The device behind which block volumes appear.",
        checks.one_of("virtio-scsi", "virtio-blk"),
    )
    rx_rate_limiter_max_rate: int = setting(
        0,
        "The most bits per second that a sandbox may receive on each interface; 0: no limit.",
        checks.between(0, 1 << 40, "bits/s"),
    )
    tx_rate_limiter_max_rate: int = setting(
        0,
        "The most bits per second that a sandbox may send on each interface; 0: no limit.",
        checks.between(0, 1 << 40, "bits/s"),
    )
    entropy_source: str = setting(
        "/dev/urandom", "Where the guest's random numbers come from.", checks.absolute_path
    )
    use_vsock: str = setting(
        "auto",
        'How the agent is reached: true: by vsock, false: by a virtio serial port, "auto": by '
        "vsock where the host has it.",
        checks.one_of("auto", "true", "false"),
        aliases=((True, "true"), (False, "false")),
    )
    pcie_root_port: int = setting(
        4,
        "PCIe ports for devices that are added while the sandbox runs. Upstream's default is 0, as "
        "it adds them to a PCI bridge.",
        checks.between(0, 16),
    )
    seccompsandbox: str = setting(
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        "QEMU's own restriction of system calls, as for its -sandbox; empty for none. Upstream "
        "recommends this value.",
        checks.one_line,
    )
    enable_annotations: tuple[str, ...] = setting(
        ("enable_iommu", "kernel_params", "kernel_verity_params", "sysctls"),
        "Regular expressions, matched whole: which io.katacontainers.config.* annotations a "
        'pod may use, by key ("kernel_params") or by section and key '
        '("runtime.disable_guest_seccomp").',
        checks.regular_expressions,
    )
    valid_hypervisor_paths: tuple[str, ...] = setting(
        ("/usr/bin/qemu-system-x86_64",),
        "Patterns of paths that an annotation may set `path` to.",
        checks.absolute_paths,
    )
    valid_virtio_fs_daemon_paths: tuple[str, ...] = setting(
        (
            "/usr/libexec/virtiofsd",
            "/opt/kata/virtiofsd/virtiofsd",
            "/usr/lib/qemu/virtiofsd",
        ),
        "Patterns of paths that an annotation may set `virtio_fs_daemon` to.",
        checks.absolute_paths,
    )
    enable_debug: bool = setting(
        False, "Log what QEMU and the guest's kernel say, and the kernel says more."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Section ``agent.kata``."""

    enable_debug: bool = setting(False, "Let the agent log debug messages.")
    kernel_modules: tuple[str, ...] = setting(
        (),
        'Kernel modules loaded in the guest, each with its parameters: "name key=value".',
        checks.one_line,
    )
    sysctls: tuple[str, ...] = setting(
        (),
        "Settings of the guest's kernel that belong to no namespace, which all containers of a pod "
        'have, and of its network: "vm.nr_hugepages=64". Only here, not in upstream\'s file.',
        checks.sysctls,
    )
    dial_timeout_s: int = setting(
        45,
        "Seconds in which the agent must answer after the VM was started.",
        checks.between(1, 3600, "s"),
        key="dial_timeout",
    )
    debug_console_enabled: bool = setting(
        False,
        "Let root on the host run programs in the guest itself (kata-runtime exec ID).",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FactoryConfig:
    """Section ``factory``."""

    enable_template: bool = setting(
        True,
        "Start sandboxes as copies of a VM that was booted once. What copies share, and when to "
        "turn it off: docs/templates.md.",
    )
    template_path: str = setting(
        "/run/vc/vm/template", "Folder for the template.", checks.absolute_path
    )
    vm_cache_number: int = setting(
        1,
        "How many VMs, copies of a template, run and wait for sandboxes. Each takes about 100 MB. "
        "They end when the host is short of memory.",
        checks.between(0, 1000),
    )
    vm_cache_endpoint: str = setting(
        "/var/run/kata-containers/cache.sock",
        "Socket of the process that holds them.",
        checks.absolute_path,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeConfig:
    """Section ``runtime``."""

    enable_debug: bool = setting(False, "Let the shim log debug messages.")
    internetworking_model: str = setting(
        "tcfilter",
        "How the VM is connected to the pod's network interface.",
        checks.one_of("tcfilter", "macvtap", "none"),
    )
    disable_new_netns: bool = setting(
        False, 'Run in the host\'s network namespace; needs internetworking_model = "none".'
    )
    disable_guest_seccomp: bool = setting(
        False,
        "Do not pass the containers' seccomp profiles on to the guest. Upstream's default is true.",
    )
    sandbox_cgroup_only: bool = setting(
        False,
        "Keep the sandbox's processes in the pod's cgroup even where its memory limit is below "
        "what the machine may need; false: there they are not counted as the pod's memory.",
    )
    static_sandbox_resource_mgmt: bool = setting(
        False,
        "Size the sandbox once, at its start, instead of adding CPUs and memory later; the pod's "
        "limits are looked at then in any case.",
    )
    create_container_timeout_s: int = setting(
        60,
        "Seconds in which a container must be created.",
        checks.between(1, 86400, "s"),
        key="create_container_timeout",
    )


@dataclass(frozen=True, slots=True)
class Config:
    """One configuration.

    ``path`` is the main file; ``warnings`` are sentences about keys that have no effect, to be
    logged once for each sandbox.
    """

    path: str
    hypervisor: HypervisorConfig
    agent: AgentConfig
    factory: FactoryConfig
    runtime: RuntimeConfig
    warnings: tuple[str, ...] = ()
