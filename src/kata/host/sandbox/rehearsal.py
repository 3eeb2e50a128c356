"""A container that nobody wants, run in a guest that waits for a sandbox.

What the first one costs, a container's code loaded and (under emulation) translated, the guest has
paid then.  Nothing of it is left.
"""

from __future__ import annotations

import os
from typing import Any

from kata.host.sandbox.agent import Agent
from kata.host.share import layout
from kata.oci.convert import convert_spec
from kata.rpc.pb import agent_pb2

_ID = "rehearsal"
# A program of the guest image that needs no others.
_PROGRAM = "/usr/bin/catatonit"
_STDOUT_BYTES = 4096


def rehearse(agent: Agent, mounts_folder: str) -> None:
    """Run the container to its end, in the shared folder.  Raises KataError or OSError."""
    folder = f"{mounts_folder}/{_ID}"
    os.makedirs(f"{folder}/rootfs")
    try:
        request = agent_pb2.CreateContainerRequest(container_id=_ID)
        request.OCI.CopyFrom(convert_spec(_make_spec()))
        agent.create_container(request)
        try:
            agent.start_container(_ID)
            while agent.read_stream("Stdout", _ID, "", _STDOUT_BYTES):
                pass
            agent.wait_process(_ID, "")
        finally:
            agent.remove_container(_ID)
    finally:
        layout.remove_skeleton(folder)


def _make_spec() -> dict[str, Any]:
    """Return what engines mostly ask for."""
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID"]
    kept = ("bounding", "effective", "permitted")
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0, "additionalGids": [0]},
            "args": ["/init", "--version"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": dict.fromkeys(kept, capabilities),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": f"{layout.GUEST_FOLDER}/{_ID}/rootfs"},
        "hostname": _ID,
        "mounts": [
            _mount("/proc", "proc", "nosuid", "noexec", "nodev"),
            _mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
            _mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666"),
            _mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777"),
            _mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
            _mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
            _mount("/sys/fs/cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
            {"destination": "/init", "type": "bind", "source": _PROGRAM, "options": ["bind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/{_ID}",
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/latency_stats", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
        },
    }


def _mount(target: str, kind: str, *options: str) -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": kind, "options": list(options)}
