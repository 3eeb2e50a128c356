"""The protocol's specification as JSON: names, zeros, and the way there and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.oci.convert import convert_process, convert_resources, convert_spec
from kata.oci.render import member_name, render_message

SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "hostname": "box",
    "process": {
        "terminal": True,
        "consoleSize": {"height": 0, "width": 80},
        "user": {"uid": 0, "gid": 0, "additionalGids": [0, 5], "username": "u"},
        "args": ["sh", "-c", "echo ü"],
        "env": ["PATH=/bin", "A="],
        "cwd": "/",
        "capabilities": {"bounding": ["CAP_KILL"], "ambient": ["CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "noNewPrivileges": True,
        "apparmorProfile": "p",
        "oomScoreAdj": -998,
        "selinuxLabel": "l",
    },
    "root": {"path": "/rootfs", "readonly": True},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
    ],
    "hooks": {"createRuntime": [{"path": "/h", "args": ["h"], "env": ["A=1"], "timeout": 5}]},
    "annotations": {"Key.With/Case": "Value"},
    "linux": {
        "uidMappings": [{"hostID": 0, "containerID": 0, "size": 1}],
        "gidMappings": [{"hostID": 5, "containerID": 0, "size": 1}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "cgroupsPath": "/a/b",
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}],
        "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 0, "fileMode": 432}],
        "rootfsPropagation": "rslave",
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
        "mountLabel": "m",
        "intelRdt": {"l3CacheSchema": "L3:0=f"},
        "resources": {
            "devices": [
                {"allow": False, "access": "rwm"},
                {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "r"},
                {"allow": True, "type": "c", "major": 10, "access": "r"},
                {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"},
            ],
            "memory": {"limit": 1024, "swap": -1, "kernelTCP": 1, "disableOOMKiller": True},
            "cpu": {"shares": 2, "quota": -1, "period": 1000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 10},
            "blockIO": {
                "weight": 10,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 5, "leafWeight": 4}],
                "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 9}],
            },
            "hugepageLimits": [{"pageSize": "2MB", "limit": 0}],
            "network": {"classID": 1, "priorities": [{"name": "eth0", "priority": 0}]},
        },
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                {
                    "names": ["read"],
                    "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 0, "value": 0, "valueTwo": 1, "op": "SCMP_CMP_EQ"}],
                },
                {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
            ],
        },
    },
}


def test_specification_comes_back_as_it_was() -> None:
    assert render_message(convert_spec(SPEC)) == SPEC


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("Args", "args"),
        ("OOMScoreAdj", "oomScoreAdj"),
        ("UID", "uid"),
        ("UIDMappings", "uidMappings"),
        ("HostID", "hostID"),
        ("CPU", "cpu"),
        ("BlockIO", "blockIO"),
        ("ThrottleReadIOPSDevice", "throttleReadIOPSDevice"),
        ("L3CacheSchema", "l3CacheSchema"),
        ("destination", "destination"),
    ],
)
def test_names(field: str, name: str) -> None:
    assert member_name("X", field) == name


def test_limits_that_are_not_set_are_absent() -> None:
    resources = convert_resources({"memory": {"limit": 0, "swappiness": 0}, "cpu": {"quota": 0}})
    assert render_message(resources) == {"memory": {}, "cpu": {}}


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        ({"type": "c", "major": 0, "minor": 0}, {}),
        ({"type": "c", "major": -1, "minor": -1}, {}),
        ({"type": "c", "major": 4, "minor": -1}, {"major": 4}),
        ({"type": "b", "major": 8, "minor": 0}, {"major": 8, "minor": 0}),
        ({"type": "a", "major": 7, "minor": 7}, {}),
        ({"major": 7, "minor": 7}, {}),
    ],
)
def test_device_rules(rule: dict[str, Any], numbers: dict[str, int]) -> None:
    message = convert_resources({"devices": [{"allow": True, **rule}]})
    rendered: Any = render_message(message)
    kept = {
        key: value for key, value in rendered["devices"][0].items() if key in ("major", "minor")
    }
    assert kept == numbers


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
PROCESS = st.fixed_dictionaries(
    {
        "cwd": TEXT.filter(bool),
        "user": st.fixed_dictionaries(
            {"uid": st.integers(0, 2**32 - 1), "gid": st.integers(0, 2**32 - 1)}
        ),
    },
    optional={
        "args": st.lists(TEXT, min_size=1),
        "env": st.lists(TEXT, min_size=1),
        "terminal": st.just(True),
        "oomScoreAdj": st.integers(-1000, 1000).filter(bool),
        "rlimits": st.lists(
            st.fixed_dictionaries(
                {
                    "type": TEXT,
                    "soft": st.integers(0, 2**64 - 1),
                    "hard": st.integers(0, 2**64 - 1),
                }
            ),
            min_size=1,
        ),
    },
)


@given(PROCESS)
def test_process_comes_back_as_it_was(process: dict[str, Any]) -> None:
    assert render_message(convert_process(process)) == process
