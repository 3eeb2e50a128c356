"""Board, processors, memory, kernel: what every machine has."""

from __future__ import annotations

from kata.host.hypervisor.qemu.options import Option, json_option
from kata.host.hypervisor.spec import VmSpec

# Parts of q35 that no guest of ours has a driver for; each costs boot time when it is probed.
_UNUSED_Q35 = ("sata=off", "smbus=off", "usb=off", "vmport=off", "hpet=off", "graphics=off")
# Emulation keeps translated code in a buffer that may take 1 GiB when not told otherwise.
_ACCELERATORS = {"kvm": "kvm", "tcg": "tcg,tb-size=128"}


def machine_options(spec: VmSpec) -> list[Option]:
    """Plan the machine itself.

    The guest's memory is a shared file, because virtiofsd maps it; QEMU unlinks the file at once
    when it is given a folder, so a killed machine leaves none behind.
    """
    board = [spec.machine_type, "memory-backend=ram"]
    if spec.machine_type == "q35":
        board += _UNUSED_Q35
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
        ("-m", f"{spec.memory_mib}M"),
        json_option(
            "-object",
            {
                "qom-type": "memory-backend-file",
                "id": "ram",
                "size": spec.memory_mib << 20,
                "mem-path": spec.memory_folder,
                "share": True,
            },
        ),
        ("-kernel", spec.kernel),
        ("-initrd", spec.initrd),
        ("-append", " ".join(spec.kernel_params)),
        json_option(
            "-object", {"qom-type": "rng-random", "id": "rng", "filename": spec.entropy_source}
        ),
        json_option("-device", {"driver": "virtio-rng-pci", "id": "rng0", "rng": "rng"}),
    ]
    if spec.firmware:
        options.append(("-bios", spec.firmware))
    if spec.seccomp:
        options.append(("-sandbox", spec.seccomp))
    return options


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
