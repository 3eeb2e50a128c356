"""What images and volumes tried on other runtimes to get out of a container, or at its protection.

Each by its number; those about execs are in test_entry.py.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from kata.rpc.client import RpcError
from tests.guest.harness import Host

HIDDEN = "/proc/timer_list"


@pytest.fixture
def root(rootfs: Path, tmp_path: Path) -> Path:
    """A root file system of the test's own, to put traps in."""
    root = tmp_path / "root"
    shutil.copytree(rootfs, root, copy_function=os.link, symlinks=True)
    return root


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    return outside


def spec_for(host: Host, root: Path, *command: str, **linux: Any) -> dict[str, Any]:
    spec = host.spec(*command)
    spec["root"] = {"path": str(root)}
    spec["linux"].update(linux)
    return spec


def run(host: Host, spec: dict[str, Any]) -> str:
    host.create("c1", spec)
    host.start("c1")
    return host.read_all("c1").decode()


def bind(source: Path, target: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind"]}


def climb(path: Path) -> str:
    """Return a relative path that leads to ``path`` from wherever it is taken as relative."""
    return "../" * 30 + str(path).lstrip("/")


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_kernel_file_system_behind_a_link(host: Host, root: Path, name: str) -> None:
    """CVE-2019-19921, and again CVE-2023-27561 and CVE-2023-28642."""
    shutil.rmtree(root / name)
    (root / "elsewhere").mkdir()
    (root / name).symlink_to("/elsewhere")
    spec = spec_for(host, root, "true")
    kind = {"proc": "proc", "sys": "sysfs"}[name]
    spec["mounts"] = [{"destination": f"/{name}", "type": kind, "source": kind}]
    with pytest.raises(RpcError, match=f"mount at /{name}: it must be a folder"):
        host.create("c1", spec)


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/link", "/proc/self/attr"])
def test_volume_over_proc(host: Host, root: Path, outside: Path, target: str) -> None:
    """CVE-2019-16884: what hides and protects would be done to the volume instead."""
    (root / "link").symlink_to("/proc/sys")
    spec = spec_for(host, root, "true", maskedPaths=[HIDDEN])
    spec["mounts"] = [*spec["mounts"], bind(outside, target)]
    with pytest.raises(RpcError, match=f"at {target}: inside /proc"):
        host.create("c1", spec)


def test_file_in_proc_that_may_be_replaced(host: Host, root: Path, outside: Path) -> None:
    spec = spec_for(host, root, "cat", "/proc/uptime")
    spec["mounts"] = [*spec["mounts"], bind(outside / "secret", "/proc/uptime")]
    assert run(host, spec) == "secret"


@pytest.mark.parametrize("way", ["absolute", "climbing"])
def test_mount_point_behind_a_link(host: Host, root: Path, outside: Path, way: str) -> None:
    """CVE-2021-30465: the target of a mount leads out of the container's root."""
    (root / "volume").symlink_to(str(outside) if way == "absolute" else climb(outside))
    spec = spec_for(host, root, "ls", "/volume/new")
    source = outside.parent / "source"
    source.mkdir()
    (source / "file").touch()
    spec["mounts"] = [*spec["mounts"], bind(source, "/volume/new")]
    # It is one inside of the root, where it leads nowhere.
    with pytest.raises(RpcError, match="at /volume/new"):
        host.create("c1", spec)
    assert [path.name for path in outside.iterdir()] == ["secret"]


@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "/etc/passwd"])
def test_null_device_that_is_a_link(host: Host, root: Path, target: str) -> None:
    """CVE-2025-31133: what hides a path is not taken from the container."""
    shutil.rmtree(root / "dev")
    (root / "dev").mkdir()
    (root / "dev" / "null").symlink_to(target)
    spec = spec_for(host, root, "cat", HIDDEN, maskedPaths=[HIDDEN])
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] == "proc"]
    assert run(host, spec) == ""
    assert host.wait("c1") == 0


def test_masked_path_behind_a_link(host: Host, root: Path, outside: Path) -> None:
    (root / "masked").symlink_to(climb(outside / "secret"))
    spec = spec_for(host, root, "true", maskedPaths=["/masked"], readonlyPaths=["/masked"])
    run(host, spec)
    assert (outside / "secret").read_text() == "secret"


def test_terminals_in_a_folder_of_the_image(host: Host, root: Path) -> None:
    """CVE-2025-52565: what becomes /dev/console is the terminal and nothing else."""
    (root / "dev" / "pts").mkdir()
    for number in range(8):
        (root / "dev" / "pts" / str(number)).symlink_to("/proc/sys/kernel/core_pattern")
    spec = spec_for(host, root, "sh", "-c", "stat -c %t /dev/console")
    spec["process"]["terminal"] = True
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] == "proc"]
    with pytest.raises(RpcError):
        host.create("c1", spec)


@pytest.mark.parametrize("number", range(3, 16))
def test_working_folder_by_a_descriptor(host: Host, root: Path, number: int) -> None:
    """CVE-2024-21626, for the first process."""
    spec = spec_for(host, root, "sh", "-c", "ls ../../../../..")
    spec["process"]["cwd"] = f"/proc/self/fd/{number}"
    try:
        seen = run(host, spec)
    except RpcError:
        return
    assert seen.split() == sorted(path.name for path in root.iterdir())


def test_nothing_of_the_agent_is_open(host: Host, root: Path) -> None:
    """CVE-2016-9962, and what every later leak had in common."""
    spec = spec_for(host, root, "sh", "-c", "ls -l /proc/1/fd | grep -v pipe; ls -l /proc/$$/fd")
    seen = run(host, spec)
    targets = {line.split(" -> ")[1] for line in seen.splitlines() if " -> " in line}
    assert all(target.startswith(("pipe:", "/proc/")) for target in targets), seen


def test_first_process_before_its_start(host: Host, root: Path) -> None:
    """Others in the pod's pid namespace cannot look into, or change, what is not started yet."""
    host.create("c1", spec_for(host, root, "sleep", "1000"))
    seen = host.output(
        "c1",
        "sh",
        "-c",
        "id -u; ls /proc/1/fd; cat /proc/1/environ; readlink /proc/1/exe; true",
        user={"uid": 1000, "gid": 1000},
    )
    assert seen == "1000\n"
