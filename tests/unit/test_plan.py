"""Specs rewritten for the guest, and machines planned from a configuration."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.config.parse import ConfigFile, parse_config
from kata.host.resource.sizing import Size
from kata.host.sandbox.mounts import SharedMount
from kata.host.sandbox.plan import (
    ContainerPlan,
    GuestRules,
    describe_machine,
    plan_container,
    plan_vm,
)
from kata.host.share.layout import GUEST_FOLDER

CONFIG = parse_config([ConfigFile("c.toml", "")])
BLOCK_IO = {"weight": 10, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}]}
SPEC: dict[str, Any] = {
    "ociVersion": "1.0.2",
    "process": {
        "args": ["sh"], "cwd": "/", "apparmorProfile": "p", "selinuxLabel": "l",
    },
    "root": {"path": "rootfs", "readonly": True},
    "hooks": {"prestart": [{"path": "/bin/true"}]},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/data/", "type": "bind", "source": "/srv", "options": ["rbind", "ro"]},
        {"destination": "/etc/hosts", "type": "none", "source": "/h", "options": ["bind"]},
    ],
    "linux": {
        "namespaces": [
            {"type": "pid"}, {"type": "network", "path": "/var/run/netns/x"},
            {"type": "mount", "path": "/proc/1/ns/mnt"}, {"type": "time"},
        ],
        "cgroupsPath": "/default/c1",
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "mountLabel": "l",
        "resources": {"cpu": {"shares": 5, "cpus": "0", "mems": "0"}, "blockIO": BLOCK_IO},
    },
}  # fmt: skip


def plan(spec: dict[str, Any], *, seccomp: bool = False) -> ContainerPlan:
    return plan_container("c1", spec, GuestRules(seccomp=seccomp))


def changed(**keys: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SPEC), **keys}


def test_the_request_is_not_changed() -> None:
    spec = copy.deepcopy(SPEC)
    plan(spec)
    assert spec == SPEC


def test_root_is_in_the_shared_folder() -> None:
    assert plan(SPEC).spec["root"] == {"path": f"{GUEST_FOLDER}/c1/rootfs", "readonly": True}


def test_bind_mounts_are_shared_and_virtual_ones_are_the_guests() -> None:
    planned = plan(SPEC)
    first, second = "c1-0000000000000001-data", "c1-0000000000000002-hosts"
    assert planned.mounts.shared == (
        SharedMount("/srv", first, read_only=True, recursive=True),
        SharedMount("/h", second, read_only=False, recursive=False),
    )
    mounts = planned.spec["mounts"]
    assert mounts[0] == SPEC["mounts"][0]
    assert [mount["source"] for mount in mounts[1:]] == [
        f"{GUEST_FOLDER}/{first}",
        f"{GUEST_FOLDER}/{second}",
    ]
    assert {mount["type"] for mount in mounts[1:]} == {"bind"}


def test_mount_of_another_type_is_refused() -> None:
    with pytest.raises(KataError, match="/mnt: type 'nfs'") as caught:
        plan(changed(mounts=[{"destination": "/mnt", "type": "nfs", "source": "a:/b"}]))
    assert caught.value.code == Code.UNIMPLEMENTED


def test_namespaces_are_new_ones_and_the_machines_own_left_out() -> None:
    assert plan(SPEC).spec["linux"]["namespaces"] == [
        {"type": "pid"},
        {"type": "mount"},
        {"type": "cgroup"},
    ]


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("", "/c1"),
        ("/default/c1", "/default/c1"),
        ("relative/c1", "/relative/c1"),
        ("kubepods-pod1.slice:cri-containerd:c1", "/kubepods-pod1.slice/cri-containerd-c1"),
    ],
)
def test_cgroup_path(path: str, wanted: str) -> None:
    assert plan(changed(linux={"cgroupsPath": path})).spec["linux"]["cgroupsPath"] == wanted


def test_what_is_the_hosts_is_left_out() -> None:
    planned = plan(SPEC)
    assert "mountLabel" not in planned.spec["linux"]
    left = {"cpu": {"shares": 5}, "blockIO": {"weight": 10}}
    assert planned.spec["linux"]["resources"] == left
    assert planned.spec["process"] == {"args": ["sh"], "cwd": "/"}
    assert "hooks" not in planned.spec


def test_the_containers_own_hooks_are_kept() -> None:
    own, others = [{"path": "/bin/true"}], [{"path": "/host"}]
    hooks = {"startContainer": own, "createContainer": others, "poststop": []}
    planned = plan(changed(hooks=hooks))
    assert planned.spec["hooks"] == {"startContainer": own}
    assert planned.warnings[-1].startswith("hooks left out: createContainer: ")


def test_what_is_lost_is_told() -> None:
    assert [warning.split()[0] for warning in plan(SPEC).warnings] == ["seccomp", "hooks"]
    kept = plan(SPEC, seccomp=True)
    assert "seccomp" in kept.spec["linux"]
    assert len(kept.warnings) == 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, "it has no process"),
        (changed(process=None), "it has no process"),
        (changed(root=None), "it has no root"),
        (changed(process={"args": []}), "process.args"),
        (changed(root={"path": ""}), "root.path"),
        (changed(root=7), "root: expected an object"),
        (changed(mounts=[{"type": "bind"}]), r"mounts\[0\]"),
        (changed(mounts={}), "mounts: expected a list"),
        (changed(linux=[]), "linux: expected an object"),
        (changed(linux={"namespaces": [3]}), r"namespaces\[0\]"),
        (changed(linux={"cgroupsPath": 3}), "cgroupsPath"),
    ],
)
def test_spec_no_container_can_be_made_of(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(KataError, match=words) as caught:
        plan(spec)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_machine() -> None:
    spec = plan_vm("s1", CONFIG, Size(1, 512), "tcg", None)
    assert (spec.name, spec.accelerator, spec.memory_mib, spec.vcpus) == ("s1", "tcg", 512, 1)
    assert "quiet" in spec.kernel_params
    assert not any("server_addr" in parameter for parameter in spec.kernel_params)


def test_machine_with_its_root_in_an_image() -> None:
    hypervisor = replace(CONFIG.hypervisor, image="/x.img", initrd="", kernel_params="agent.log=x")
    spec = plan_vm("s1", replace(CONFIG, hypervisor=hypervisor), Size(1, 512), "tcg", None)
    assert (spec.image, spec.initrd) == ("/x.img", "")
    for parameter in ("root=/dev/pmem0", "rootfstype=erofs", "rootflags=dax=always", "ro"):
        assert parameter in spec.kernel_params
    # The operator's come last, and win.
    assert spec.kernel_params[-1] == "agent.log=x"
    assert describe_machine(spec)[1] == (spec.binary, spec.kernel, "/x.img")


def test_machine_with_vsock_tells_the_agent() -> None:
    assert (
        "agent.server_addr=vsock://-1:1024"
        in plan_vm("s1", CONFIG, Size(1, 512), "kvm", 7).kernel_params
    )
