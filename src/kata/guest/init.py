"""The agent as PID 1 of a guest.

The image's /init calls ``main``.  First comes only what the first answer to the host needs: mounts,
the boot modules, the channel; the rest follows on the main thread while the host's first request is
on its way.  PID 1 must never return: it ends by powering the machine off.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time

from kata.base import syscalls
from kata.base.log import Logger
from kata.guest import files, mounts, node, ports, signals, sockets
from kata.guest.agent import Agent
from kata.guest.forker import start_forker
from kata.guest.guest import Guest
from kata.guest.logport import LogSink
from kata.guest.reaper import Reaper, block_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VSOCK_MODULE = "vmw_vsock_virtio_transport"
HOSTNAME = "kata"


def main() -> None:
    """Run the guest until it is told to end, then power it off."""
    try:
        _run()
    except BaseException as error:  # noqa: BLE001  # whatever it is, somebody must see it
        _report(error)
    syscalls.reboot(syscalls.RB_POWER_OFF)


def _run() -> None:
    # Times are since the kernel's start.
    started_s = time.monotonic()
    mounts.leave_initramfs()
    mounts.mount_first()
    block_signals()
    node.raise_limits()
    options = parse_options(files.read("/proc/cmdline"))
    forker = None if options.get("agent.runtime") == "crun" else start_forker()
    sink = LogSink(_open_console())
    log = Logger(sink.write)
    log.debug_enabled = options.get("agent.log") == "debug"
    guest = Guest(is_ours=True)
    reaper = Reaper(log)
    agent = Agent(guest, reaper, log, forker)
    uevents = ports.Uevents()
    guest.modules.load_boot()
    _serve(agent, guest, uevents, options.get("agent.server_addr", ""))
    serving_s = time.monotonic()
    log_port = ports.find_port(ports.LOG)
    if log_port is not None:
        sink.redirect(os.open(log_port, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    uevents.close()
    reaper.start()
    _set_up(guest, log)
    agent.preload()
    log.info(
        "agent ready",
        started_s=f"{started_s:.3f}",
        serving_s=f"{serving_s:.3f}",
        ready_s=f"{time.monotonic():.3f}",
    )
    signals.wait((signals.SIGTERM, signals.SIGPWR))
    agent.sandbox().destroy()
    os.sync()


def _serve(agent: Agent, guest: Guest, uevents: ports.Uevents, address: str) -> None:
    if address.startswith("vsock://"):
        guest.modules.load(VSOCK_MODULE)
        listener = sockets.listen_vsock(int(address.rpartition(":")[2]))
        thread = threading.Thread(target=agent.serve_listener, args=(listener,), daemon=True)
    else:
        channel = ports.open_channel(uevents)
        thread = threading.Thread(target=agent.serve_port, args=(channel,), daemon=True)
    thread.start()


def _set_up(guest: Guest, log: Logger) -> None:
    """Do the rest of the set-up; one step that fails does not keep the others back."""
    from kata.guest import loopback
    from kata.guest.namespaces import set_hostname

    steps: tuple[tuple[str, Callable[[], None]], ...] = (
        ("mounts", mounts.mount_later),
        ("loopback", loopback.bring_up),
        ("hostname", lambda: set_hostname(HOSTNAME)),
        ("read-only root", mounts.protect_root),
        ("kernel settings", lambda: node.apply_settings(log)),
        # Gives memory that is free back to the host, where the machine has such a device.
        ("balloon", lambda: guest.modules.load("virtio_balloon")),
        # So that dmesg in a container shows the guest kernel's log.
        ("dmesg", lambda: files.control("/proc/sys/kernel/dmesg_restrict", "0")),
    )
    for name, step in steps:
        try:
            step()
        except OSError as error:
            log.warning("set-up failed", step=name, error=error)
    guest.set_ready()


def parse_options(command_line: str) -> dict[str, str]:
    """Return the agent's options of the kernel's command line; one without a value is empty."""
    options = {}
    for word in command_line.split():
        key, _, value = word.partition("=")
        if key.startswith("agent."):
            options[key] = value
    return options


def _open_console() -> int:
    """Make /dev/null standard input and the console the outputs; return the console's descriptor.

    A guest without a console gets /dev/null for all three.
    """
    null = _open_above("/dev/null", os.O_RDWR)
    try:
        console = _open_above("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        console = null
    for number, fd in enumerate((null, console, console)):
        os.dup2(fd, number)
    return console


def _open_above(path: str, flags: int) -> int:
    """Open a file with a descriptor above 2, which are about to be replaced."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return high


def _report(error: BaseException) -> None:
    import traceback

    text = "".join(traceback.format_exception(error))
    fd = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY)
    os.write(fd, b"kata-agent: init failed, powering off\n" + text.encode("utf-8", "replace"))
