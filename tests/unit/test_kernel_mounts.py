"""What stands in a container for the host kernel's own file systems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kata.base import kernelfs
from kata.base.errors import Code, KataError
from kata.base.mountinfo import Mount
from kata.host.sandbox.mounts import plan_mounts
from kata.host.sandbox.sources import Source, probe_source
from kata.host.sandbox.trees import list_below

SAFE = ["nosuid", "noexec", "nodev"]
CGROUPS = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}
Looking = Callable[[str], Source]


def bind(destination: str, *options: str) -> dict[str, Any]:
    """Return a mount of the host's at ``destination``."""
    return {"destination": destination, "type": "bind", "source": "/host/path",
            "options": ["rbind", "rprivate", *options]}  # fmt: skip


def plan(source: Source, *mounts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the guest is told to mount; nothing may be shared."""
    spec = {"mounts": [dict(mount) for mount in mounts]}
    planned = plan_mounts("c1", spec, lambda _: source, lambda _: None)
    assert planned.shared == ()
    assert planned.storages == ()
    return spec["mounts"]


def on(kernel: str, path: str = "/") -> Source:
    """Return what a path in one of the kernel's file systems is."""
    return Source(exists=True, kernel=kernel, kernel_path=path)


@pytest.mark.parametrize(
    ("kernel", "kind"),
    [
        *((same, same) for same in ("proc", "sysfs", "mqueue", "debugfs", "tracefs", "bpf")),
        *((same, same) for same in ("securityfs", "configfs", "pstore")),
        ("cgroup", "cgroup"),
        ("cgroup2", "cgroup"),
    ],
)
def test_the_whole_is_mounted_anew(kernel: str, kind: str) -> None:
    (mount,) = plan(on(kernel), bind("/x", "ro"))
    wanted = {"destination": "/x", "type": kind, "source": kind, "options": [*SAFE, "ro"]}
    assert mount == wanted


def test_devices_are_those_of_every_container() -> None:
    (dev,) = plan(on("devtmpfs"), bind("/dev/"))
    assert (dev["type"], dev["source"]) == ("tmpfs", "tmpfs")
    (terminals,) = plan(on("devpts"), bind("/dev/pts"))
    assert (terminals["type"], "newinstance" in terminals["options"]) == ("devpts", True)


@pytest.mark.parametrize(
    ("kernel", "path", "wanted"),
    [("proc", "/sys/net", "/proc/sys/net"), ("sysfs", "/class/net", "/sys/class/net")],
)
def test_a_part_is_that_of_the_guest(kernel: str, path: str, wanted: str) -> None:
    (mount,) = plan(on(kernel, path), bind("/x", "rro"))
    assert (mount["type"], mount["source"]) == ("bind", wanted)
    assert mount["options"] == ["bind", *SAFE, "ro"]


@pytest.mark.parametrize(
    ("kernel", "path"),
    [
        ("proc", "/1"),
        ("proc", "/123/root"),
        ("cgroup", "/docker/1"),
        ("cgroup2", "/system.slice"),
        ("devtmpfs", "/dri"),
        ("devtmpfs", "/"),  # at /x
        ("debugfs", "/block"),
        *((kind, "/") for kind in ("hugetlbfs", "efivarfs", "binfmt_misc", "nsfs", "resctrl")),
    ],
)
def test_what_the_guest_has_not_is_refused(kernel: str, path: str) -> None:
    with pytest.raises(
        KataError, match=f"mount /x: /host/path is on the host's {kernel}"
    ) as caught:
        plan(on(kernel, path), bind("/x"))
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("access", "wanted"), [((), ["nodev"]), (("ro",), ["nodev", "ro"])])
def test_a_hierarchy_below_the_containers_cgroups(
    access: tuple[str, ...], wanted: list[str]
) -> None:
    """That of systemd in version 1 may be written to, and so may then the only one of the guest."""
    cgroups = {**CGROUPS, "options": ["nodev", "ro"]}
    mounts = plan(on("cgroup"), cgroups, bind("/sys/fs/cgroup/systemd", *access))
    assert mounts == [{**CGROUPS, "options": wanted}]


def test_file_systems_tell_what_they_are(tmp_path: Path) -> None:
    assert kernelfs.find_type("/proc/self/root/proc/sys") == "proc"
    assert kernelfs.find_type("/sys/class") == "sysfs"
    assert kernelfs.find_type("/dev/shm") == ""
    assert kernelfs.find_type(str(tmp_path)) == ""
    link = tmp_path / "link"
    link.symlink_to("/proc/sys/kernel")
    assert probe_source(str(link)) == on("proc", "/sys/kernel")
    assert probe_source("/proc/self").kernel_path[1:].isdigit()  # a link to the process
    with pytest.raises(OSError, match="No such file"):
        kernelfs.find_type(f"{tmp_path}/missing")


def test_mounts_below_that_a_guest_may_see() -> None:
    lines = (
        b"1 0 8:1 / / rw - ext4 a rw",
        b"2 1 0:5 / /proc rw - proc proc rw",
        b"3 1 0:6 / /sys rw - sysfs sysfs rw",
        b"4 3 0:7 / /sys/fs/cgroup rw - tmpfs tmpfs rw",
        b"5 1 0:8 / /systems rw - tmpfs tmpfs rw",
        b"6 5 0:9 / /systems/a/b rw - tmpfs tmpfs rw",
        b"7 1 0:10 / /data rw - ext4 c rw",
        b"8 1 0:11 / /data rw - xfs d rw",
    )
    mounts = [Mount(line) for line in lines]
    assert list_below("/", mounts) == {"systems": "5", "data": "8", "systems/a/b": "6"}
    assert list_below("/systems", mounts) == {"a/b": "6"}
