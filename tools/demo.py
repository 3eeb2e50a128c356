"""Run one container in a virtual machine of its own, through a real containerd.

Uses the containerd of the machine when one runs, else starts one on the usual address that keeps
the rest below /run/kata-demo; ``make uninstall`` stops it.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time

from tools import busybox_image
from tools.steps import StepError, run, say, write_file

# The address that ctr uses when it is given none.
SOCKET = "/run/containerd/containerd.sock"
FOLDER = "/run/kata-demo"
LOG = f"{FOLDER}/containerd.log"
PID_FILE = f"{FOLDER}/pid"
CONFIG_FILE = f"{FOLDER}/config.toml"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 10.0
CONFIG = f"""\
version = 2
root = "{FOLDER}/root"
state = "{FOLDER}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{SOCKET}"
"""


def main() -> int:
    """Show it; return the exit code."""
    try:
        if not _answers(SOCKET):
            start_containerd()
        say(f"importing {busybox_image.NAME}")
        ctr = ["ctr"]
        run([*ctr, "image", "import", busybox_image.cached_image(FOLDER)])
        snapshotter = find_snapshotter(ctr)
        command = [*ctr, "run", *snapshotter, "--runtime", "io.containerd.run.kata.v2", "--rm"]
        show = [*command, busybox_image.NAME, f"hello-{os.getpid()}", "uname", "-r"]
        say(" ".join(show))
        start = time.monotonic()
        done = subprocess.run(show, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            log = f"; the log is {LOG}" if os.path.exists(LOG) else ""
            raise StepError(f"exit code {done.returncode}: {done.stderr.strip()}{log}")
        print(f"    kernel in the container: {done.stdout.strip()}")
        print(f"    kernel of this machine:  {platform.release()}")
        print(f"    seconds:                 {time.monotonic() - start:.1f}")
        say("for a shell in a container:")
        command[command.index("io.containerd.run.kata.v2")] = "io.containerd.kata.v2"
        print("    " + " ".join([*command, "-t", busybox_image.NAME, "hello", "sh"]))
    except (StepError, OSError, subprocess.TimeoutExpired) as error:
        print(f"demonstration failed: {error}", file=sys.stderr)
        return 1
    return 0


def start_containerd() -> None:
    """Start our own containerd."""
    say(f"starting a containerd of our own in {FOLDER}")
    write_file(CONFIG_FILE, CONFIG)
    with open(LOG, "ab") as log:
        process = subprocess.Popen(
            ["containerd", "--config", CONFIG_FILE],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PATH": f"/usr/local/bin:{os.environ['PATH']}"},
        )
    write_file(PID_FILE, str(process.pid))
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(SOCKET):
        if process.poll() is not None or time.monotonic() > deadline:
            raise StepError(f"containerd did not start, see {LOG}")
        time.sleep(0.1)


def find_snapshotter(ctr: list[str]) -> list[str]:
    """Return the option for another snapshotter where containerd cannot use overlayfs."""
    done = subprocess.run([*ctr, "plugins", "ls"], capture_output=True, text=True, check=True)
    works = any(
        "overlayfs" in line and line.split()[-1] == "ok" for line in done.stdout.split("\n")
    )
    return [] if works else ["--snapshotter", "native"]


def stop_demo() -> None:
    """Stop our own containerd, if it runs, and remove its folder."""
    pid = _demo_pid()
    if pid:
        say("stopping the demonstration's containerd")
        pidfd = os.pidfd_open(pid)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while _demo_pid() and time.monotonic() < deadline:
            time.sleep(0.1)
        os.close(pidfd)
        # containerd removes its first socket and leaves the second.
        for path in (SOCKET, f"{SOCKET}.ttrpc"):
            if os.path.exists(path) and not _answers(path):
                os.unlink(path)
    with open("/proc/self/mounts", encoding="utf-8") as file:
        busy = [line.split()[1] for line in file if line.split()[1].startswith(FOLDER + "/")]
    if busy:
        raise StepError(f"{', '.join(busy)} still mounted: a container of the demonstration runs")
    if os.path.isdir(FOLDER):
        shutil.rmtree(FOLDER)


def _demo_pid() -> int:
    """Return the process id of our own containerd, or 0; its command line proves that it is."""
    try:
        with open(PID_FILE, encoding="ascii") as file:
            pid = int(file.read())
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return pid if CONFIG_FILE.encode() in file.read().split(b"\0") else 0
    except (OSError, ValueError):
        return 0


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
