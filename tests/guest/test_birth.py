"""Which containers the agent makes itself, and which it leaves to crun."""

from __future__ import annotations

from typing import Any

import pytest

from kata.guest import birth, seccomp

PLAIN: dict[str, Any] = {
    "root": {"path": "/r"},
    "process": {"args": ["sh"], "cwd": "/", "apparmorProfile": ""},
    "hooks": {"poststop": []},
    "mounts": [{"destination": "/proc", "type": "proc", "options": ["nosuid", "size=1k"]}],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")],
        "sysctl": {"kernel.shmmax": "1"},
        "uidMappings": [],
    },
}


def test_plain_container() -> None:
    assert birth.find_obstacle(PLAIN) == ""


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"root": {}}, "no root"),
        ({"process": {"cwd": "/"}}, "no program"),
        ({"process": {"args": ["sh"], "selinuxLabel": "x"}}, "selinuxLabel"),
        ({"hooks": {"prestart": [{"path": "/bin/true"}]}}, "hook prestart"),
        ({"annotations": {"run.oci.keep_original_groups": "1"}}, "run.oci.keep_original_groups"),
        ({"mounts": [{"destination": "/", "type": "bind"}]}, "mount at /"),
        ({"mounts": [{"destination": "/x", "options": ["tmpcopyup"]}]}, "tmpcopyup"),
        ({"mounts": [{"destination": "/x", "options": ["idmap=uids=0-1-2"]}]}, "idmap"),
    ],
)
def test_obstacle_of_a_container(members: dict[str, Any], named: str) -> None:
    assert birth.find_obstacle({**PLAIN, **members}) == named


@pytest.mark.parametrize(
    ("members", "named"),
    [
        ({"uidMappings": [{"containerID": 0, "hostID": 1, "size": 1}]}, "uidMappings"),
        ({"rootfsPropagation": "runbindable"}, "rootfsPropagation"),
        ({"namespaces": [{"type": "mount"}, {"type": "user"}]}, "namespace user"),
        ({"namespaces": [{"type": "pid"}]}, "not its own"),
        ({"namespaces": [{"type": "mount", "path": "/n"}]}, "not its own"),
        ({"seccomp": {"defaultAction": "SCMP_ACT_NOTIFY"}}, "seccomp SCMP_ACT_NOTIFY"),
        ({"seccomp": {"defaultAction": "SCMP_ACT_LOG", "flags": ["F"]}}, "flags"),
    ],
)
def test_obstacle_of_its_linux_part(members: dict[str, Any], named: str) -> None:
    spec = {**PLAIN, "linux": {**PLAIN["linux"], **members}}
    assert named in birth.find_obstacle(spec)


def test_cgroups_are_mounted_with_a_namespace_only() -> None:
    spec = {**PLAIN, "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup"}]}
    assert birth.find_obstacle(spec) == ""
    spec["linux"] = {"namespaces": [{"type": "mount"}]}
    assert birth.find_obstacle(spec) == "cgroups without a namespace"


@pytest.mark.parametrize(
    ("arguments", "groups"),
    [
        ([], []),
        ([(0, 1)], [[0]]),
        ([(0, 1), (1, 2)], [[0, 1]]),
        ([(0, 1), (0, 2)], [[0], [0]]),
    ],
)
def test_comparisons_of_one_argument_are_alternatives(
    arguments: list[tuple[int, int]], groups: list[list[int]]
) -> None:
    listed = [{"index": i, "value": v, "op": "SCMP_CMP_EQ"} for i, v in arguments]
    found = seccomp._comparisons(listed)
    assert [[comparison.argument for comparison in group] for group in found] == groups
