"""Security contexts of containers, as the guest's kernel sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pods.conftest import PodMaker
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.client import CriError
from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e

STATUS = ("cat", "/proc/self/status")
CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_CHOWN = 12, 21, 0
UNSHARE = "unshare -U true && echo made || echo refused"


def status_of(text: str) -> dict[str, str]:
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def capabilities(pod: Pod, **fields: object) -> int:
    return int(status_of(pod.output(*STATUS, **fields))["CapEff"], 16)


def test_user_group_and_supplemental_groups(pod: Pod) -> None:
    told = pod.output(
        *STATUS,
        run_as_user={"value": 1234},
        run_as_group={"value": 2345},
        supplemental_groups=[3456, 4567],
    )
    status = status_of(told)
    assert status["Uid"].split() == ["1234"] * 4
    assert status["Gid"].split() == ["2345"] * 4
    assert {"3456", "4567"} <= set(status["Groups"].split())
    assert int(status["CapEff"], 16) == 0


def test_a_user_by_name(pod: Pod) -> None:
    assert pod.output("id", "-u", run_as_username="nobody") == "65534\n"


def test_a_user_that_the_image_does_not_know_is_refused(pod: Pod) -> None:
    with pytest.raises(CriError, match="user"):
        pod.create("true", run_as_username="stranger")


def test_exec_runs_as_the_containers_user(pod: Pod) -> None:
    container = pod.run(run_as_user={"value": 1234})
    assert container.sh("id -u") == "1234"


def test_capabilities_by_default(shared_container: Container) -> None:
    mask = int(status_of(shared_container.exec(*STATUS))["CapEff"], 16)
    assert mask & 1 << CAP_CHOWN
    assert not mask & 1 << CAP_SYS_ADMIN


def test_capabilities_are_added_and_dropped(pod: Pod) -> None:
    added = capabilities(pod, capabilities={"add_capabilities": ["NET_ADMIN"]})
    assert added & 1 << CAP_NET_ADMIN
    dropped = capabilities(pod, capabilities={"drop_capabilities": ["CHOWN"]})
    assert dropped & ~(1 << CAP_CHOWN)
    assert not dropped & 1 << CAP_CHOWN
    assert capabilities(pod, capabilities={"drop_capabilities": ["ALL"]}) == 0


def test_an_added_capability_works(pod: Pod) -> None:
    script = "ip link set lo mtu 60000 2>&1 && echo done"
    assert "done" not in pod.run("sh", "-c", f"{script} || true").finish()
    container = pod.run("sh", "-c", script, capabilities={"add_capabilities": ["NET_ADMIN"]})
    assert container.finish().endswith("done\n")
    reset = "ip link set lo mtu 65536"
    pod.output("sh", "-c", reset, capabilities={"add_capabilities": ["NET_ADMIN"]})


def test_privileged_is_the_guests_privilege(make_pod: PodMaker) -> None:
    context = pb.LinuxSandboxSecurityContext(privileged=True)
    pod = make_pod(linux=pb.LinuxPodSandboxConfig(security_context=context))
    container = pod.run(privileged=True)
    mask = int(status_of(container.exec(*STATUS))["CapEff"], 16)
    assert mask & 1 << CAP_SYS_ADMIN
    container.sh("mkdir /mnt && mount -t tmpfs none /mnt && grep ' /mnt ' /proc/mounts")
    assert container.sh("echo 1 > /proc/sys/kernel/printk_ratelimit && echo written") == "written"
    # Block devices of the host are not there, nor its kernel.
    assert "vda" not in container.sh("ls /dev") or not Path("/dev/vda").exists()
    assert container.sh("cat /proc/sys/kernel/random/boot_id") != _boot_id()


def test_networks_inside_a_container(make_pod: PodMaker, servers: str) -> None:
    """The guest's kernel gets what a container's own network needs when it is asked for."""
    pod = make_pod()
    rights = {"add_capabilities": ["NET_ADMIN", "NET_RAW"]}
    links = "brctl addbr b0; ip link add v0 type veth peer name v1; ip link set v0 master b0"
    told = pod.output(
        "sh", "-c", f"{links}; ip -o link | grep -o ' v0[^ ]* .*master b0'", capabilities=rights
    )
    assert "master b0" in told
    nat = "iptables -t nat -A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE && iptables -t nat -S"
    told = pod.output("sh", "-c", f"{nat} 2>&1", image=servers, capabilities=rights)
    assert "-A POSTROUTING -s 10.99.0.0/16 -j MASQUERADE" in told


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_a_read_only_root(pod: Pod) -> None:
    script = "touch /file 2>&1 || touch /dev/shm/file && rm /dev/shm/file && echo ok"
    told = pod.output("sh", "-c", script, readonly_rootfs=True)
    assert "Read-only file system" in told
    assert told.endswith("ok\n")


def test_masked_and_read_only_paths(pod: Pod) -> None:
    script = "wc -c < /proc/kallsyms; ls /proc/scsi; echo 1 > /proc/sys/kernel/domainname; true"
    container = pod.run(
        "sh", "-c", script,
        masked_paths=["/proc/kallsyms", "/proc/scsi"],
        readonly_paths=["/proc/sys"],
    )  # fmt: skip
    assert container.wait() == 0
    assert ("stdout", "F", "0") in container.lines()
    assert "Read-only file system" in container.log()


def test_no_new_privileges(pod: Pod) -> None:
    assert status_of(pod.output(*STATUS, no_new_privs=True))["NoNewPrivs"] == "1"
    assert status_of(pod.output(*STATUS))["NoNewPrivs"] == "0"


def test_seccomp_is_on_by_default_and_can_be_off(pod: Pod) -> None:
    default = {"profile_type": pb.SecurityProfile.RuntimeDefault}
    assert status_of(pod.output(*STATUS, seccomp=default))["Seccomp"] == "2"
    off = {"profile_type": pb.SecurityProfile.Unconfined}
    assert status_of(pod.output(*STATUS, seccomp=off))["Seccomp"] == "0"


def test_the_default_seccomp_profile_refuses(pod: Pod) -> None:
    default = {"profile_type": pb.SecurityProfile.RuntimeDefault}
    assert "refused\n" in pod.output("sh", "-c", f"{UNSHARE} 2>&1", seccomp=default)


def test_a_seccomp_profile_of_the_node(pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}
    file.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    profile = {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": str(file)}
    told = pod.output("sh", "-c", "mkdir /x 2>&1 || echo refused", seccomp=profile)
    assert "Operation not permitted" in told
    assert told.endswith("refused\n")
    container = pod.run(seccomp=profile)
    assert container.sh("mkdir /x 2>&1 || echo refused").endswith("refused")


def test_a_seccomp_profile_that_does_not_exist_is_named(pod: Pod) -> None:
    profile = {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": "/no/such/profile"}
    with pytest.raises(CriError, match="/no/such/profile"):
        pod.create("true", seccomp=profile)


def test_sysctls_of_a_pod(make_pod: PodMaker) -> None:
    wanted = {"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "1024 65000"}
    pod = make_pod(linux=pb.LinuxPodSandboxConfig(sysctls=wanted))
    assert pod.output("cat", "/proc/sys/kernel/shm_rmid_forced") == "1\n"
    ports = pod.output("cat", "/proc/sys/net/ipv4/ip_local_port_range")
    assert ports.split() == ["1024", "65000"]


def test_limits_of_open_files_are_those_of_the_spec(shared_container: Container) -> None:
    assert int(shared_container.sh("ulimit -n")) >= 1024


def test_a_device_of_the_container(pod: Pod) -> None:
    device = {"container_path": "/dev/mine", "host_path": "/dev/zero", "permissions": "rw"}
    assert pod.output("sh", "-c", "head -c 3 /dev/mine | wc -c", devices=[device]) == "3\n"


def test_a_device_that_does_not_exist_is_named(pod: Pod) -> None:
    device = {"container_path": "/dev/mine", "host_path": "/dev/nonsense", "permissions": "rw"}
    with pytest.raises(CriError, match="/dev/nonsense"):
        pod.create("true", devices=[device])
