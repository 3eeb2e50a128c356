"""kata-runtime spec: a config.json to begin with."""

from __future__ import annotations

import json
import os

from kata.base.errors import Code, KataError
from kata.oci.features import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
_NOTHING = ["nosuid", "noexec", "nodev"]
_MOUNTS: tuple[tuple[str, str, str, list[str]], ...] = (
    ("/proc", "proc", "proc", []),
    ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
    (
        "/dev/pts",
        "devpts",
        "devpts",
        ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    ),
    ("/dev/shm", "tmpfs", "shm", [*_NOTHING, "mode=1777", "size=65536k"]),
    ("/dev/mqueue", "mqueue", "mqueue", _NOTHING),
    ("/sys", "sysfs", "sysfs", [*_NOTHING, "ro"]),
    ("/sys/fs/cgroup", "cgroup", "cgroup", [*_NOTHING, "relatime", "ro"]),
)
_MASKED = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Write config.json.  Raises ALREADY_EXISTS, in runc's words, where there is one."""
    folder = options.text("bundle") or "."
    path = os.path.join(folder, "config.json")
    try:
        with open(path, "x") as file:
            json.dump(describe_spec(), file, indent="\t")
            file.write("\n")
    except FileExistsError:
        raise KataError("File config.json exists. Remove it first", Code.ALREADY_EXISTS) from None
    except OSError as error:
        raise KataError(f"chdir {folder}: {error.strerror}", Code.NOT_FOUND) from error
    return 0


def describe_spec() -> dict[str, Any]:
    """Return a spec that runs a shell in the folder ``rootfs``."""
    kept = dict.fromkeys(("bounding", "effective", "permitted", "ambient"), _CAPABILITIES)
    return {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TERM=xterm",
            ],
            "cwd": "/",
            "capabilities": kept,
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "kata",
        "mounts": [
            {"destination": target, "type": kind, "source": source, "options": options}
            for target, kind, source, options in _MOUNTS
        ],
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [
                {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
            ],
            "maskedPaths": _MASKED,
            "readonlyPaths": _READ_ONLY,
        },
    }
