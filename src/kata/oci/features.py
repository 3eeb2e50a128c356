"""What this runtime can do, in the words of the OCI specification (features.md)."""

from __future__ import annotations

from typing import Any

from kata.base import mountoptions

# containerd's name of the document's type
TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
SPEC_VERSION = "1.2.0"
_NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "user", "uts")


def describe_features() -> dict[str, Any]:
    """Return the document.

    A pod's user namespace is made in its guest, and the owners of its files are mapped on the host.
    """
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC_VERSION,
        "hooks": ["startContainer"],
        "mountOptions": sorted({*mountoptions.list_names(), "idmap", "ridmap", "rro"}),
        "linux": {
            "namespaces": list(_NAMESPACES),
            "cgroup": {"v1": False, "v2": True, "systemd": False, "systemdUser": False},
            "seccomp": {"enabled": True},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
    }
