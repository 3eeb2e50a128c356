"""Board, processors, memory, kernel and root: what every machine has."""

from __future__ import annotations

from kata.host.hypervisor.qemu.options import Option, json_option
from kata.host.hypervisor.spec import VmSpec

# The names of the objects of memory, by which board and devices find them.
_MEMORY = "ram"
_IMAGE = "image"

# Parts of q35 that no guest of ours has a driver for; each costs boot time when it is probed.
_UNUSED_Q35 = ("sata=off", "smbus=off", "usb=off", "vmport=off", "hpet=off", "graphics=off")
# Emulation keeps translated code in a buffer that may take 1 GiB when not told otherwise.
_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,tb-size=128"}


def machine_options(spec: VmSpec, image_bytes: int) -> list[Option]:
    """Plan the machine itself, without memory and kernel; ``image_bytes`` is its image's size."""
    board = [spec.machine_type, f"memory-backend={_MEMORY}"]
    if spec.machine_type == "q35":
        board += _UNUSED_Q35
    memory = f"{spec.memory_mib}M"
    if spec.image:
        board.append("nvdimm=on")
        memory += f",slots=1,maxmem={spec.memory_mib + -(-image_bytes >> 20)}M"
    if spec.machine_options:
        board.append(spec.machine_options)
    cpu = ["host" if spec.accelerator == "kvm" else "max"]
    if spec.cpu_features and spec.accelerator == "kvm":
        cpu.append(spec.cpu_features)
    options = [
        ("-name", f"sandbox-{spec.name},debug-threads=on"),
        ("-no-user-config", ""),
        ("-nodefaults", ""),
        ("-nographic", ""),
        ("-no-reboot", ""),
        ("-machine", ",".join(board)),
        ("-accel", _ACCELERATORS[spec.accelerator]),
        ("-cpu", ",".join(cpu)),
        ("-smp", str(spec.vcpus)),
        ("-m", memory),
        json_option(
            "-object", {"qom-type": "rng-random", "id": "rng", "filename": spec.entropy_source}
        ),
        json_option("-device", {"driver": "virtio-rng-pci", "id": "rng0", "rng": "rng"}),
    ]
    if spec.reclaim:
        options.append(
            json_option(
                "-device",
                {"driver": "virtio-balloon-pci", "id": "balloon0", "free-page-reporting": True},
            )
        )
    if spec.firmware:
        options.append(("-bios", spec.firmware))
    if spec.seccomp:
        options.append(("-sandbox", spec.seccomp))
    return options


def memory_options(spec: VmSpec, fd: int | None) -> list[Option]:
    """Plan the guest's memory: a shared file, because virtiofsd maps it.

    ``fd`` is the child's number of one that exists.  Without, QEMU makes one in the folder and
    unlinks it at once.  Either way a killed machine leaves none behind.
    """
    path = spec.memory_folder if fd is None else f"/proc/self/fd/{fd}"
    return [
        json_option(
            "-object",
            {
                "qom-type": "memory-backend-file",
                "id": _MEMORY,
                "size": spec.memory_mib << 20,
                "mem-path": path,
                "share": True,
            },
        )
    ]


def image_options(spec: VmSpec, image_bytes: int) -> list[Option]:
    """Plan the root as memory that the guest reads where the host's page cache has it.

    A device without state, as it must be: QEMU 7.2 does not save a virtio-pmem's.  Memory that is
    read-only is not offered to virtiofsd (vhost_section of QEMU).
    """
    if not spec.image:
        return []
    return [
        json_option(
            "-object",
            {
                "qom-type": "memory-backend-file",
                "id": _IMAGE,
                "size": image_bytes,
                "mem-path": spec.image,
                "share": True,
                "readonly": True,
            },
        ),
        json_option(
            "-device", {"driver": "nvdimm", "id": "nvdimm0", "memdev": _IMAGE, "unarmed": True}
        ),
    ]


def origin_options(spec: VmSpec, *, restored: bool) -> list[Option]:
    """Plan where the guest begins: at its kernel, or where another machine stopped."""
    if restored:
        # Kernel and initrd are in the memory; without them QEMU starts faster and is smaller.
        return [("-incoming", "defer")]
    return [
        ("-kernel", spec.kernel),
        *([("-initrd", spec.initrd)] if spec.initrd else ()),
        ("-append", " ".join(spec.kernel_params)),
    ]


def root_port_options(count: int) -> list[Option]:
    """Plan PCI Express root ports: one is needed for each device that is plugged in later."""
    return [
        json_option(
            "-device",
            {
                "driver": "pcie-root-port",
                "id": root_port_id(index),
                "bus": "pcie.0",
                "chassis": index + 1,
                "slot": index + 1,
            },
        )
        for index in range(count)
    ]


def root_port_id(index: int) -> str:
    """Return the name of a root port."""
    return f"rp{index}"
