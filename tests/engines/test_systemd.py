"""Containers whose first program is systemd, by Podman."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.conftest import Engine
from tests.support.debian_root import debian_root

pytestmark = pytest.mark.e2e

IMAGE = "localhost/systemd"
PACKAGES = ("systemd", "systemd-sysv", "dbus")
HIERARCHY = Path("/sys/fs/cgroup/systemd")


@pytest.fixture(scope="module")
def image(podman: Engine) -> str:
    """A root file system with systemd."""
    podman.call("import", debian_root(PACKAGES, "minbase"), IMAGE)
    return IMAGE


def wait_until_up(podman: Engine, name: str) -> None:
    """Return once systemd has done all it was asked for; fails for units that failed."""
    # Before it listens there is nothing that could wait.
    bus = "until test -S /run/systemd/private; do sleep 0.5; done"
    wait = f"{bus}; systemctl is-system-running --wait"
    told = podman.call("exec", name, "sh", "-c", wait, check=False).stdout.strip()
    assert told == "running", podman.run("exec", name, "systemctl", "--failed", "--plain")


def list_cgroups() -> set[Path]:
    """Return the host's cgroups in systemd's hierarchy."""
    return set(HIERARCHY.rglob("*/")) if HIERARCHY.exists() else set()


@pytest.mark.parametrize("mode", ["always", "true"])
def test_systemd_is_up_and_stops(podman: Engine, image: str, mode: str) -> None:
    """Nothing that it makes in its cgroups is the host's."""
    name = f"systemd-{mode}"
    before = list_cgroups()
    words = ("--detach", "--name", name, "--network", "none", f"--systemd={mode}")
    podman.call("run", *words, image, "/sbin/init")
    wait_until_up(podman, name)
    slices = podman.run("exec", name, "ls", "/sys/fs/cgroup")
    assert {"init.scope", "system.slice"} <= set(slices.split())
    assert podman.run("exec", name, "stat", "-fc", "%T", "/sys/fs/cgroup") == "cgroup2fs"
    made = [path for path in list_cgroups() - before if path.name.endswith((".slice", ".scope"))]
    assert made == []
    # One that does not end by itself is killed, which is another status.
    podman.call("stop", "--time", "60", name)
    assert podman.run("inspect", "--format", "{{.State.ExitCode}}", name) == "0"
    podman.call("rm", name)
