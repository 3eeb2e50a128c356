"""QEMU and virtiofsd in other versions than the system's, as keys of the configuration."""

from __future__ import annotations

from collections.abc import Callable

from tools.other_debian import unpack, write_wrapper

QEMU = "usr/bin/qemu-system-x86_64"
VIRTIOFSD = "usr/libexec/virtiofsd"
# The one of QEMU 7.2, which Debian 12 has itself.
C_VIRTIOFSD = "/usr/lib/qemu/virtiofsd"
# Firmware comes from packages of its own, in the places where Debian's QEMU looks for it.
_FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


def get_qemu_10() -> str:
    """Return QEMU 10 of bookworm-backports, which needs the libraries of bookworm's QEMU only."""
    packages = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"]
    return _wrap_qemu(unpack("bookworm-backports", packages))


def get_qemu_11() -> str:
    """Return QEMU 11 or later of sid."""
    return _wrap_qemu(unpack("sid", ["qemu-system-x86"], closure=True))


def get_virtiofsd(suite: str) -> str:
    """Return the Rust virtiofsd of a suite."""
    return write_wrapper(unpack(suite, ["virtiofsd"], closure=True), VIRTIOFSD)


def _wrap_qemu(folder: str) -> str:
    firmware = [word for place in _FIRMWARE for word in ("-L", f"{folder}/{place}")]
    return write_wrapper(folder, QEMU, firmware)


MACHINES: dict[str, Callable[[], dict[str, str]]] = {
    "virtiofsd-c": lambda: {"virtio_fs_daemon": C_VIRTIOFSD},
    "qemu-10": lambda: {"path": get_qemu_10()},
    "qemu-11-virtiofsd-1.14": lambda: {
        "path": get_qemu_11(),
        "virtio_fs_daemon": get_virtiofsd("sid"),
    },
}
