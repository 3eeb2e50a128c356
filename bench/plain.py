"""Plain QEMU with virtiofsd, no kata on the host: what shared files cost at the least.

The guest is the same kernel and initrd; an archive appended to that has another init, which mounts
the shared folder, runs a script in it and powers off.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.fio import SHELL
from kata.base.statefolder import ROOT
from kata.config.load import load_config
from kata.host.hypervisor.accelerator import choose_accelerator
from kata.host.hypervisor.spec import VmSpec
from kata.host.resource.sizing import Size
from kata.host.sandbox.plan import plan_vm
from kata.host.share.virtiofsd import Flavour, find_flavour
from kata.image.cpio import file_entry, render_archive
from tools.setup import CONFIGURATION

_TIMEOUT_S = 300.0
_INIT = "bench-init"
_END = "bench-end"
# The disk's name in the guest.
DISK = "/dev/vda"
# The interpreter's own paths are those of the image's /init.
_SCRIPT = """\
#!/usr/bin/python3 -IS
import sys
sys.path[:] = ["/usr/lib/kata", "/usr/lib/python3.11", "/usr/lib/python3.11/lib-dynload"]
import os, subprocess
from kata.base import syscalls
from kata.guest.modules import Modules

def run():
    console = os.open("/dev/console", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(console, number)
    syscalls.mount("proc", "/proc", "proc")  # which says whether the kernel has modules
    modules = Modules()
    modules.load_boot()
    modules.load("virtiofs")
    modules.load("virtio_blk")
    syscalls.mount("{tag}", "/mnt", "virtiofs")
    syscalls.mount("proc", "/mnt/proc", "proc")
    syscalls.mount("dev", "/mnt/dev", "devtmpfs")
    syscalls.mount("tmp", "/mnt/tmp", "tmpfs")
    os.chroot("/mnt")
    os.chdir("/")
    os.environ["PATH"] = "/usr/bin:/bin"
    code = subprocess.run([*{shell!r}, {script!r}]).returncode
    print("{end}", code, flush=True)

try:
    run()
except BaseException as error:
    print(repr(error), flush=True)
finally:
    syscalls.reboot(syscalls.RB_POWER_OFF)
"""
_TAG = "share"


@dataclass(frozen=True, slots=True)
class Daemon:
    """A virtiofsd and its options, in the words of the configuration."""

    binary: str
    cache: str = "auto"
    queue_size: int = 1024
    threads: int = 0  # 0: requests are served by the thread that reads them

    def command(self, socket_path: str, folder: str) -> list[str]:
        """Return the command line that serves a folder on a socket."""
        threads = f"--thread-pool-size={self.threads}"
        common = [self.binary, f"--socket-path={socket_path}", threads]
        if find_flavour(self.binary) is Flavour.RUST:
            return [*common, f"--shared-dir={folder}", f"--cache={self.cache}"]
        cache = "none" if self.cache == "never" else self.cache
        return [*common, "-o", f"source={folder}", "-o", f"cache={cache}"]


def run_plain(daemon: Daemon, folder: str, script: str, disk: str = "") -> str:
    """Run a script in a guest whose root is the folder; returns what it wrote.

    ``disk`` is a file or block device of the host.
    """
    spec = _plan()
    with tempfile.TemporaryDirectory(prefix="kata-bench-plain-") as scratch:
        initrd = Path(scratch) / "initrd"
        initrd.write_bytes(Path(spec.initrd).read_bytes() + _render_init(script))
        socket_path = f"{scratch}/fs"
        with _served(daemon, socket_path, folder):
            argv = _plan_arguments(spec, str(initrd), socket_path, daemon.queue_size)
            if disk:
                argv += ["-drive", f"file={disk},format=raw,if=virtio"]
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
            )
    text = done.stdout.decode(errors="replace").replace("\r", "")
    if f"{_END} 0" not in text:
        raise RuntimeError(f"the plain guest failed: {text[-2000:]}{done.stderr.decode()[-500:]}")
    return text


def _plan() -> VmSpec:
    """Return the machine that kata would start."""
    config = load_config(CONFIGURATION, {})
    accelerator = choose_accelerator(config.hypervisor.accel, ROOT).name
    return plan_vm(
        "bench", config, Size(1, config.hypervisor.default_memory_mib), accelerator, None
    )


def _render_init(script: str) -> bytes:
    text = _SCRIPT.format(tag=_TAG, shell=SHELL, script=script, end=_END)
    return b"".join(render_archive([file_entry(_INIT, text.encode(), 0o755)]))


@contextmanager
def _served(daemon: Daemon, socket_path: str, folder: str) -> Iterator[None]:
    command = daemon.command(socket_path, folder)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            while not os.path.exists(socket_path):
                if process.poll() is not None:
                    assert process.stderr is not None
                    raise RuntimeError(f"{command}: {process.stderr.read().decode()[-500:]}")
                time.sleep(0.01)
            yield
        finally:
            process.kill()


def _plan_arguments(spec: VmSpec, initrd: str, socket_path: str, queue_size: int) -> list[str]:
    params = [*spec.kernel_params, f"rdinit=/{_INIT}"]
    return [
        spec.binary, "-machine", "q35,memory-backend=ram", "-accel", spec.accelerator,
        "-cpu", "host" if spec.accelerator == "kvm" else "max",
        "-smp", str(spec.vcpus), "-m", f"{spec.memory_mib}M",
        "-object", f"memory-backend-memfd,id=ram,size={spec.memory_mib}M,share=on",
        "-nodefaults", "-no-user-config", "-nographic", "-no-reboot", "-serial", "stdio",
        "-kernel", spec.kernel, "-initrd", initrd, "-append", " ".join(params),
        "-chardev", f"socket,id=fs,path={socket_path}",
        "-device", f"vhost-user-fs-pci,chardev=fs,tag={_TAG},queue-size={queue_size}",
    ]  # fmt: skip
