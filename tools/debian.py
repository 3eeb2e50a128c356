"""Debian packages on the host: those of the product, and those of its tests."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tools.steps import StepError, run, say

if TYPE_CHECKING:
    from collections.abc import Sequence

PACKAGES = (
    "ca-certificates",
    "busybox-static",
    "containerd",
    "cpio",
    "erofs-utils",
    "iproute2",
    "kmod",
    "lz4",
    "python3",
    "python3-venv",
    "qemu-system-x86",
    "qemu-utils",
    "runc",
    "util-linux",
    "zstd",
)
# Engines, networks of pods as Kubernetes makes them, a root file system with real servers, and what
# a kernel is built with.
TEST_PACKAGES = (
    "bc",
    "bison",
    "buildah",
    "catatonit",
    "conmon",
    "containernetworking-plugins",
    "crun",
    "docker.io",
    "e2fsprogs",
    "flex",
    "gcc",
    "iptables",
    "libc6-dev",
    "libelf-dev",
    "make",
    "mmdebstrap",
    "netavark",
    "perl",
    "podman",
    "xfsprogs",
    "xz-utils",
)
ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive"}
# The lists may be missing (a fresh container image) or older than the archive.
APT = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]


def ensure_packages(packages: Sequence[str] = PACKAGES) -> None:
    """Install the packages that are missing."""
    missing = missing_packages(packages)
    if missing or not has_lists():
        say("reading Debian's package lists")
        run([*APT, "update"], env=ENVIRONMENT)
    if missing:
        say(f"installing Debian packages: {' '.join(missing)}")
        run([*APT, "install", "-y", "--no-install-recommends", *missing], env=ENVIRONMENT)
        still = missing_packages(packages)
        if still:
            raise StepError(f"install Debian packages: {' '.join(still)} still missing")


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Ask dpkg which packages are not installed."""
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages],
        capture_output=True,
        text=True,
        check=False,
    )
    installed = {
        line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")
    }
    return [name for name in packages if name not in installed]


def has_lists() -> bool:
    """Tell whether apt knows where to download from; the image builder needs it."""
    done = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", "linux-image-cloud-amd64"],
        capture_output=True,
        check=False,
    )
    return b"Filename:" in done.stdout
