"""Find out whether KVM really accelerates: run a counting loop in a virtual machine and time it.

/dev/kvm can exist, open and create machines and still only emulate (nested or paravirtual hosts);
a kernel then never finishes booting.  Run as a program of its own, because a processor that hangs
in KVM_RUN can only be ended with its process; prints the milliseconds the loop took.

Source of the interface: Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time

ITERATIONS = 100_000

_KVM_CREATE_VM = 0xAE01
_KVM_GET_VCPU_MMAP_SIZE = 0xAE04
_KVM_CREATE_VCPU = 0xAE41
_KVM_SET_USER_MEMORY_REGION = 0x4020AE46
_KVM_RUN = 0xAE80
_KVM_SET_REGS = 0x4090AE82
_KVM_GET_SREGS = 0x8138AE83
_KVM_SET_SREGS = 0x4138AE84

_EXIT_HLT = 5
_CODE_ADDRESS = 0x1000
_CODE = (
    b"\x66\xb9" + struct.pack("<I", ITERATIONS)  # mov ecx, ITERATIONS
    + b"\x66\x49"  # dec ecx
    + b"\x75\xfc"  # jnz back to dec
    + b"\xf4"  # hlt
)  # fmt: skip


def time_loop() -> float:
    """Run the loop on one virtual processor in real mode; returns seconds.  Raises OSError."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    machine = fcntl.ioctl(kvm, _KVM_CREATE_VM, 0)
    memory = mmap.mmap(-1, 0x2000, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    memory[_CODE_ADDRESS : _CODE_ADDRESS + len(_CODE)] = _CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    region = struct.pack("<IIQQQ", 0, 0, 0, 0x2000, address)
    fcntl.ioctl(machine, _KVM_SET_USER_MEMORY_REGION, region)
    vcpu = fcntl.ioctl(machine, _KVM_CREATE_VCPU, 0)
    run = mmap.mmap(vcpu, fcntl.ioctl(kvm, _KVM_GET_VCPU_MMAP_SIZE, 0))
    segments = bytearray(fcntl.ioctl(vcpu, _KVM_GET_SREGS, bytes(312)))
    struct.pack_into("<Q", segments, 0, 0)  # code segment: base
    struct.pack_into("<H", segments, 12, 0)  # and selector
    fcntl.ioctl(vcpu, _KVM_SET_SREGS, bytes(segments))
    registers = [0] * 16 + [_CODE_ADDRESS, 2]  # rip; bit 1 of rflags is always set
    fcntl.ioctl(vcpu, _KVM_SET_REGS, struct.pack("<18Q", *registers))
    started = time.perf_counter()
    fcntl.ioctl(vcpu, _KVM_RUN, 0)
    took = time.perf_counter() - started
    reason = struct.unpack_from("<I", run, 8)[0]
    if reason != _EXIT_HLT:
        raise OSError(f"the processor left with reason {reason} instead of a halt")
    return took


def main() -> int:
    """Print the milliseconds, or the error and exit 1."""
    try:
        print(f"{time_loop() * 1000:.3f}")
    except OSError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
