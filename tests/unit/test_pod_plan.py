"""What a spec asks of the machine: namespaces, devices, mounts."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.host.sandbox.devices import (
    DiskPlan,
    allow_all,
    find_block_node,
    is_privileged,
    plan_devices,
)
from kata.host.sandbox.mounts import (
    GuestStorage,
    MountPlan,
    SharedMount,
    plan_mounts,
)
from kata.host.sandbox.pod import plan_pod
from kata.host.sandbox.sources import MemoryVolume, Source, probe_source
from kata.host.share.layout import GUEST_FOLDER

NETNS = "/run/netns/cni-1"
NAMESPACES = [{"type": "network", "path": NETNS}, {"type": "pid"}, {"type": "ipc"}]
SANDBOX = "/run/kata-containers/sandbox"
SIZE = 64 << 20
DENY_ALL = {"allow": False, "access": "rwm"}
ALLOW_ALL = {"allow": True, "access": "rwm"}


def refusal(function: Callable[[], object], code: int = Code.INVALID_ARGUMENT) -> str:
    with pytest.raises(KataError) as caught:
        function()
    assert caught.value.code == code
    return str(caught.value)


# What concerns the pod as a whole.


def test_a_pod_is_read() -> None:
    settings = {"net.core.somaxconn": "333"}
    linux = {"namespaces": [*NAMESPACES, {"type": "uts"}], "sysctl": settings}
    plan = plan_pod("s1", {"hostname": "pod", "linux": linux})
    assert (plan.hostname, plan.netns_path, plan.sysctls) == ("pod", NETNS, settings)


def test_a_pod_may_have_a_network_namespace_without_a_path() -> None:
    namespaces = [{"type": kind} for kind in ("network", "pid", "ipc")]
    plan = plan_pod("s1", {"linux": {"namespaces": namespaces}})
    assert (plan.hostname, plan.netns_path, plan.sysctls) == ("", "", {})


def test_settings_that_are_not_a_pods_own_are_refused() -> None:
    """As runc does; the annotation is for the machine's."""
    linux = {"namespaces": NAMESPACES, "sysctl": {"vm.swappiness": "1"}}
    said = refusal(lambda: plan_pod("s1", {"linux": linux}))
    assert 'sysctl "vm.swappiness" is not in a separate kernel namespace' in said


@pytest.mark.parametrize(
    ("kind", "field"), [("network", "hostNetwork"), ("pid", "hostPID"), ("ipc", "hostIPC")]
)
def test_a_namespace_of_the_host_is_refused_by_the_pods_field(kind: str, field: str) -> None:
    others = [entry for entry in NAMESPACES if entry["type"] != kind]
    said = refusal(lambda: plan_pod("s1", {"linux": {"namespaces": others}}))
    assert f"create sandbox s1: {field}: " in said
    assert f"leave {field} out" in said


def test_a_user_namespace_of_the_hosts_is_refused() -> None:
    namespaces = [*NAMESPACES, {"type": "user", "path": "/run/pinned/user"}]
    said = refusal(lambda: plan_pod("s1", {"linux": {"namespaces": namespaces}}))
    assert "hostUsers: " in said
    assert "/run/pinned/user" in said


@pytest.mark.parametrize("key", ["uidMappings", "gidMappings"])
def test_a_map_without_root_is_refused(key: str) -> None:
    whole = [{"containerID": 0, "hostID": 1000, "size": 10}]
    maps = {"uidMappings": whole, "gidMappings": whole}
    plan_pod("s1", {"linux": {"namespaces": NAMESPACES, **maps}})
    maps[key] = [{"containerID": 1, "hostID": 1000, "size": 10}]
    said = refusal(lambda: plan_pod("s1", {"linux": {"namespaces": NAMESPACES, **maps}}))
    assert f"linux.{key}: id 0 of the pod is not mapped" in said


@pytest.mark.parametrize("spec", [{}, {"linux": None}, {"linux": {"namespaces": None}}])
def test_a_pod_without_namespaces_is_refused(spec: dict[str, Any]) -> None:
    assert "hostNetwork" in refusal(lambda: plan_pod("s1", spec))


# Devices.


def device(path: str, kind: str, major: int, minor: int) -> dict[str, Any]:
    return {"path": path, "type": kind, "major": major, "minor": minor}


def plan_disks(*rules: dict[str, Any]) -> tuple[DiskPlan, ...]:
    linux = {"devices": [device("/dev/xvda", "b", 8, 1)], "resources": {"devices": list(rules)}}
    return plan_devices({"linux": linux}, lambda major, minor: f"/dev/disk{major}-{minor}")


def disk_rule(access: str, **more: Any) -> dict[str, Any]:
    return {"allow": True, "type": "b", "major": 8, "minor": 1, "access": access, **more}


def no_node(major: int, minor: int) -> str:
    raise AssertionError(f"nobody asked for {major}:{minor}")


@pytest.mark.parametrize(
    ("rules", "read_only"),
    [
        ([], False),
        ([DENY_ALL, disk_rule("rwm")], False),
        ([DENY_ALL, disk_rule("rw")], False),
        ([DENY_ALL, disk_rule("r")], True),
        ([DENY_ALL, disk_rule("rm")], True),
        ([DENY_ALL], True),
        ([DENY_ALL, disk_rule("rwm", minor=2)], True),
        ([DENY_ALL, disk_rule("rwm", minor=-1)], False),
        ([DENY_ALL, disk_rule("rwm", major=None, minor=None)], False),
        ([DENY_ALL, disk_rule("rwm", type="c")], True),
        ([disk_rule("rwm"), disk_rule("w", allow=False)], True),
        ([DENY_ALL, disk_rule("rwm"), disk_rule("m", allow=False)], False),
        ([DENY_ALL, disk_rule("rwm"), disk_rule("r")], False),
        ([disk_rule("r")], True),
        # What engines allow every container (containerd's defaults) does not make it writable.
        ([DENY_ALL, disk_rule("m", major=None, minor=None), disk_rule("r")], True),
    ],
)
def test_a_disk_is_read_only_by_the_rules(rules: list[dict[str, Any]], read_only: bool) -> None:
    assert plan_disks(*rules) == (DiskPlan("/dev/xvda", "/dev/disk8-1", read_only),)


@pytest.mark.parametrize("kind", ["c", "u"])
def test_a_character_device_is_refused_by_path_and_numbers(kind: str) -> None:
    spec = {"linux": {"devices": [device("/dev/gpu0", kind, 226, 128)]}}
    said = refusal(lambda: plan_devices(spec, no_node))
    assert "add device /dev/gpu0: " in said
    assert "226:128" in said
    assert "privileged_without_host_devices" in said


@pytest.mark.parametrize("numbers", [(1, 3), (1, 9), (5, 0), (10, 200), (10, 229)])
def test_what_every_kernel_has_is_left_to_the_guest(numbers: tuple[int, int]) -> None:
    spec = {"linux": {"devices": [device("/dev/own", "c", *numbers)]}}
    assert plan_devices(spec, no_node) == ()
    assert len(spec["linux"]["devices"]) == 1


def test_a_privileged_container_gets_what_it_asked_for_of_the_hosts() -> None:
    """Disks at other paths than the host's; engines give it all others without being asked."""
    null = device("/dev/null", "c", 1, 3)
    asked = device("/dev/xvda", "b", 8, 16)
    given = [
        device("/dev/sda", "b", 8, 0),
        device("/dev/loop9", "b", 7, 9),
        device("/dev/gpu0", "c", 226, 0),
    ]

    def find_node(major: int, minor: int) -> str:
        if major == 7:
            raise KataError("nothing behind it", Code.NOT_FOUND)
        return {0: "/dev/sda", 16: "/dev/sdb"}[minor]

    rules = [DENY_ALL, ALLOW_ALL]
    spec = {"linux": {"devices": [*given, null, asked], "resources": {"devices": rules}}}
    assert plan_devices(spec, find_node) == (DiskPlan("/dev/xvda", "/dev/sdb", read_only=False),)
    assert spec["linux"]["devices"] == [null, asked]


def context(*rules: dict[str, Any], sysfs: str = "ro", **linux: Any) -> dict[str, Any]:
    """Return a spec with capabilities, as engines describe one."""
    names = ["CAP_CHOWN", "CAP_MKNOD", "CAP_SYS_ADMIN"]
    return {
        "process": {"capabilities": {"bounding": names}},
        "mounts": [{"destination": "/sys", "type": "sysfs", "options": ["nosuid", sysfs]}],
        "linux": {"resources": {"devices": list(rules)}, **linux},
    }


# Docker, Podman, containerd with the host's devices or all allowed, CRI-O; then containerd with
# privileged_without_host_devices.
@pytest.mark.parametrize(
    "spec", [context(DENY_ALL, ALLOW_ALL), context(ALLOW_ALL), context(DENY_ALL, sysfs="rw")]
)
def test_who_is_privileged(spec: dict[str, Any]) -> None:
    assert is_privileged(spec)
    allow_all(spec)
    assert spec["linux"]["resources"]["devices"][-1] == ALLOW_ALL


@pytest.mark.parametrize(
    "spec",
    [
        {},
        context(DENY_ALL),
        context(ALLOW_ALL, DENY_ALL),
        context(DENY_ALL, sysfs="rw", maskedPaths=["/proc/kcore"]),
        context(DENY_ALL, sysfs="rw", readonlyPaths=["/proc/sys"]),
        context(DENY_ALL, sysfs="rw", seccomp={"defaultAction": "SCMP_ACT_ALLOW"}),
        context(ALLOW_ALL, uidMappings=[{"containerID": 0, "hostID": 1000, "size": 1}]),
        {**context(ALLOW_ALL), "process": {"capabilities": {"bounding": ["CAP_MKNOD"]}}},
        {**context(ALLOW_ALL), "process": {}},
    ],
)
def test_who_is_not(spec: dict[str, Any]) -> None:
    assert not is_privileged(spec)


@pytest.mark.parametrize("spec", [{}, {"linux": None}, {"linux": {"devices": None}}])
def test_no_devices(spec: dict[str, Any]) -> None:
    assert plan_devices(spec, no_node) == ()


def test_a_disks_node_is_found_by_its_numbers() -> None:
    found = 0
    for path in Path("/sys/dev/block").iterdir():
        major, minor = map(int, path.name.split(":"))
        try:
            facts = os.stat(find_block_node(major, minor))
        except KataError:
            continue  # a host may leave nodes out
        assert (os.major(facts.st_rdev), os.minor(facts.st_rdev)) == (major, minor)
        found += 1
    assert found


def test_a_disk_that_the_host_lacks_is_named() -> None:
    assert "4000:77" in refusal(lambda: find_block_node(4000, 77), Code.NOT_FOUND)


# Mounts.


def bind(destination: str, source: str = "/src", *options: str) -> dict[str, Any]:
    return {
        "destination": destination,
        "type": "bind",
        "source": source,
        "options": ["rbind", *options],
    }


def no_volume(path: str) -> None:
    """Nothing is a disk."""


def plan(source: Source, *mounts: dict[str, Any]) -> MountPlan:
    return plan_mounts("c1", {"mounts": list(mounts)}, lambda _: source, no_volume)


DISK = Source(exists=True)
MEMORY = Source(exists=True, memory=True, size_bytes=SIZE, mode=0o2770, gid=1000)
VOLUME = replace(MEMORY, volume=MemoryVolume("0:77", mode=0o2770, gid=1000))
FOLDER = replace(
    MEMORY, mode=0o755, gid=0, volume=MemoryVolume("0:77", 0o2770, 1000, path_inside="/a/b")
)


def test_a_bind_mount_is_shared() -> None:
    mounts = bind("/data/", "/src", "ro"), {**bind("/"), "options": ["bind"], "type": "none"}
    found = plan(DISK, *mounts)
    names = "c1-0000000000000000-data", "c1-0000000000000001-root"
    assert found.storages == ()
    assert found.shared == (
        SharedMount("/src", names[0], read_only=True, recursive=True),
        SharedMount("/src", names[1], read_only=False, recursive=False),
    )
    assert [(item["type"], item["source"]) for item in mounts] == [
        ("bind", f"{GUEST_FOLDER}/{name}") for name in names
    ]


@pytest.mark.parametrize(
    ("option", "follows"),
    [("rslave", True), ("slave", True), ("rprivate", False), ("private", False)],
)
def test_late_mounts_are_followed_when_asked(option: str, follows: bool) -> None:
    (shared,) = plan(DISK, bind("/data", "/src", option)).shared
    assert shared.follows is follows


@pytest.mark.parametrize("option", ["shared", "rshared"])
def test_mounts_cannot_travel_to_the_host(option: str) -> None:
    said = refusal(lambda: plan(DISK, bind("/data", "/src", option)))
    assert f"mount /data: {option}: " in said
    assert "mountPropagation" in said


def test_shm_is_the_guests_own_of_the_same_size() -> None:
    mount = bind("/dev/shm", "/run/engine/shm")
    found = plan(MEMORY, mount)
    assert found.shared == ()
    (storage,) = found.storages
    assert (storage.driver, storage.fstype) == ("ephemeral", "tmpfs")
    assert {f"size={SIZE}", "mode=1777", "nosuid", "nodev", "noexec"} == set(storage.options)
    assert storage.mount_point == mount["source"] == f"{SANDBOX}/shm"
    assert mount["type"] == "bind"


def test_shm_that_is_no_memory_is_shared() -> None:
    assert plan(DISK, bind("/dev/shm")).storages == ()


def test_a_volume_in_memory_is_one_for_all_containers() -> None:
    first, second = bind("/cache"), bind("/other", "/src", "ro")
    found = plan(VOLUME, first, second)
    whole = f"{SANDBOX}/ephemeral/0:77"
    options = ("mode=2770", "fsgid=1000", f"size={SIZE}")
    assert found.shared == ()
    assert found.storages == (GuestStorage("ephemeral", "tmpfs", "tmpfs", options, whole),) * 2
    assert first["source"] == second["source"] == whole
    assert "ro" in second["options"]


def test_a_folder_of_a_volume_in_memory() -> None:
    mount = bind("/cache")
    whole, folder = plan(FOLDER, mount).storages
    assert (whole.driver, whole.mount_point) == ("ephemeral", f"{SANDBOX}/ephemeral/0:77")
    assert whole.options == ("mode=2770", "fsgid=1000", f"size={SIZE}")
    assert (folder.driver, folder.options) == ("local", ("mode=755", "fsgid=0"))
    assert folder.mount_point == mount["source"] == f"{SANDBOX}/ephemeral/0:77/a/b"


def test_a_volume_in_memory_as_shm_is_that_volume() -> None:
    mount = bind("/dev/shm")
    (storage,) = plan(VOLUME, mount).storages
    assert storage.mount_point == mount["source"] == f"{SANDBOX}/ephemeral/0:77"


@pytest.mark.parametrize("special", ["a socket", "a named pipe", "a block device"])
def test_doors_to_the_hosts_kernel_are_refused(special: str) -> None:
    source = Source(exists=True, special=special, device=(1, 3))
    said = refusal(lambda: plan(source, bind("/door", "/run/x")))
    assert f"mount /door: /run/x is {special} of the host" in said


def test_a_volume_that_kubelet_changes_is_one_copy_for_the_pod() -> None:
    path = "/var/lib/kubelet/pods/1/volumes/kubernetes.io~configmap/settings"
    mounts = bind("/etc/a", path, "ro"), bind("/etc/b", f"{path}/"), bind("/c", f"/2{path}")
    found = plan(Source(exists=True, watched=True), *mounts)
    assert (found.shared, found.storages) == ((), ())
    first, second, other = found.watched
    assert first.name == second.name != other.name
    assert first.name.startswith("configmap-settings-")
    assert mounts[0]["source"] == f"{SANDBOX}/watchable/{first.name}"
    assert "ro" in mounts[0]["options"]


def test_devices_that_every_kernel_has_are_the_guests_own() -> None:
    mount = bind("/dev/kmsg", "/dev/null")
    null = Source(exists=True, special="a character device", device=(1, 3))
    assert plan(null, mount) == MountPlan((), ())
    assert (mount["type"], mount["source"]) == ("bind", "/dev/null")
    with pytest.raises(KataError, match="character device"):
        plan(replace(null, device=(10, 232)), bind("/dev/kvm", "/dev/kvm"))


def test_memory_that_is_no_volume_is_shared() -> None:
    """Such as a secret: the host writes to it later."""
    found = plan(MEMORY, bind("/secret"))
    assert (len(found.shared), found.storages) == (1, ())


def test_a_source_that_is_missing_is_left_to_who_shares_it() -> None:
    (shared,) = plan(Source(exists=False), bind("/data", "/missing")).shared
    assert shared.source == "/missing"


@pytest.mark.parametrize("kind", ["proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup"])
def test_what_the_guest_makes_itself_is_left_alone(kind: str) -> None:
    mount = {"destination": "/x", "type": kind, "source": kind}
    before = dict(mount)
    assert plan(DISK, mount) == MountPlan((), ())
    assert mount == before


def test_a_file_system_of_the_host_is_refused() -> None:
    mount = {"destination": "/data", "type": "nfs", "source": "server:/x"}
    said = refusal(lambda: plan(DISK, mount), Code.UNIMPLEMENTED)
    assert "mount /data: type 'nfs'" in said


@pytest.mark.parametrize("spec", [{}, {"mounts": None}])
def test_no_mounts(spec: dict[str, Any]) -> None:
    assert plan_mounts("c1", spec, lambda _: DISK, no_volume) == MountPlan((), ())


def test_sources_are_looked_at(tmp_path: Path) -> None:
    assert probe_source(f"{tmp_path}/missing") == Source(exists=False)
    assert probe_source("/proc") == Source(exists=True, kernel="proc")
    assert probe_source("/dev/null") == Source(
        exists=True, special="a character device", device=(1, 3)
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/door")
        assert probe_source(f"{tmp_path}/door").special == "a socket"
