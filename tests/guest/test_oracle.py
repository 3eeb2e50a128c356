"""What a container sees is the same whether the agent or crun has made it.

Where the two differ the agent does what runc does: the last of ``ro`` and ``rw`` wins, and folders
that are made for mounts have mode 755.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.base.errors import KataError
from tests.guest.harness import Host, running_agent

Change = Callable[[dict[str, Any], Path], None]

# All that a container can see of how it was made.
LOOK = r"""
id; pwd; umask; env | sort; hostname
grep -E '^(Cap|NoNewPrivs|Seccomp:|Groups|Uid|Gid)' /proc/self/status
sed 's/ \+/ /g' /proc/self/limits
ls -lan /dev | awk '{print $1, $3, $4, $5, $6, $NF}' | sort
cat /proc/self/oom_score_adj
echo; awk '{print $5, $6, $7, $8, $9, $10}' /proc/self/mountinfo | sed 's/[a-z]*:[0-9]* //g'
ls -la / | awk '{print $1, $3, $4, $NF}' | sort
cat /proc/sys/kernel/hostname /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/msg_max
 ls -d /proc/[0-9]* | head -1
for path in /proc/kcore /proc/timer_list /proc/sys/kernel/domainname /data /data/deep; do
    head -c 20 $path 2>&1 | od -c | head -2
    (echo x > $path/new) 2>&1; (echo x > $path) 2>&1
done
mkdir /made 2>&1; sleep 0 || echo no sleep
"""
FILTER = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["mkdir", "mkdirat", "not_a_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 30},
        {
            "names": ["umask"],
            "action": "SCMP_ACT_ERRNO",
            "args": [{"index": 0, "value": 0o77, "op": "SCMP_CMP_EQ"}],
        },
    ],
}


def bind(*options: str, target: str = "/data") -> Change:
    def change(spec: dict[str, Any], folder: Path) -> None:
        spec["mounts"] = [
            *spec["mounts"],
            {"destination": target, "type": "bind", "source": str(folder), "options": [*options]},
        ]

    return change


def mount(target: str, kind: str, *options: str) -> Change:
    def change(spec: dict[str, Any], _: Path) -> None:
        entry = {"destination": target, "type": kind, "source": kind, "options": [*options]}
        spec["mounts"] = [*spec["mounts"], entry]

    return change


def linux(**members: Any) -> Change:
    return lambda spec, _: spec["linux"].update(members)


def process(**members: Any) -> Change:
    return lambda spec, _: spec["process"].update(members)


def top(**members: Any) -> Change:
    return lambda spec, _: spec.update(members)


def read_only(spec: dict[str, Any], _: Path) -> None:
    spec["root"]["readonly"] = True


def new_network(spec: dict[str, Any], _: Path) -> None:
    spec["linux"]["namespaces"] = [*spec["linux"]["namespaces"], {"type": "network"}]


def capabilities(*names: str) -> dict[str, list[str]]:
    return {kind: [*names] for kind in ("bounding", "effective", "permitted")}


CASES: dict[str, Change] = {
    "plain": lambda spec, _: None,
    "hostname": top(hostname="box"),
    "user": process(user={"uid": 1000, "gid": 1000, "additionalGids": [7, 8], "umask": 0o77}),
    "capabilities": process(capabilities=capabilities("CAP_CHOWN", "CAP_NET_RAW")),
    "no new privileges": process(noNewPrivileges=True),
    "limits": process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 100}]),
    "folder that is made": process(cwd="/not/there/yet"),
    "environment": process(env=["PATH=/bin", "A=b c", "HOME=/tmp"]),
    "score": process(oomScoreAdj=500),
    "root read-only": read_only,
    "bind": bind("rbind"),
    "bind read-only": bind("bind", "ro"),
    "bind recursively read-only": bind("rbind", "rro"),
    "bind with attributes": bind("rbind", "nosuid", "nodev", "noexec", "noatime"),
    "bind as slave": bind("rbind", "rslave"),
    "bind as private": bind("bind", "private"),
    "tmpfs": mount("/data", "tmpfs", "nosuid", "size=64k", "mode=1770"),
    "tmpfs read-only": mount("/data", "tmpfs", "ro"),
    "queues": mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
    "sysfs": mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    "masked": linux(maskedPaths=["/proc/kcore", "/proc/timer_list", "/tmp", "/not/there"]),
    "read-only paths": linux(readonlyPaths=["/proc/sys", "/proc/bus", "/tmp", "/not/there"]),
    "devices": linux(
        devices=[
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o620, "gid": 5},
            {"path": "/dev/deep/disk", "type": "b", "major": 7, "minor": 0},
            {"path": "/dev/queue", "type": "p"},
        ]
    ),
    "settings": linux(sysctl={"kernel.shmmax": "123456", "fs.mqueue.msg_max": "11"}),
    "propagation to it": linux(rootfsPropagation="rslave"),
    "propagation from it": linux(rootfsPropagation="shared"),
    "no propagation": linux(rootfsPropagation="rprivate"),
    "filter": linux(seccomp=FILTER),
    "network": new_network,
}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, rootfs: Path) -> Iterator[dict[str, Host]]:
    folder = tmp_path_factory.mktemp("agents")
    with running_agent(folder / "native") as native, running_agent(folder / "crun", "crun") as crun:
        hosts = {"native": Host(native, rootfs), "crun": Host(crun, rootfs)}
        yield hosts
        for host in hosts.values():
            host.close()


def look(host: Host, change: Change, folder: Path, command: str = LOOK) -> tuple[int, str]:
    """Return how a container that looks at itself ends, and what it sees."""
    spec = host.spec("sh", "-c", command)
    own = folder.parent / f"root-{id(host)}"
    shutil.copytree(host.rootfs, own, copy_function=os.link)
    spec["root"] = {"path": str(own)}
    change(spec, folder)
    try:
        host.create("c", spec)
    except KataError as error:
        return -1, error.message
    try:
        host.start("c")
        seen = host.read_all("c").decode()
        return host.wait("c"), seen
    finally:
        host.remove("c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_same_view(hosts: dict[str, Host], name: str, folder: Path) -> None:
    by_crun = look(hosts["crun"], CASES[name], folder)
    assert by_crun[0] == 0, by_crun[1]
    by_agent = look(hosts["native"], CASES[name], folder)
    assert "created by crun" not in hosts["native"].agent.log()
    assert normal(by_agent[1]) == normal(by_crun[1])


def normal(seen: str) -> list[str]:
    """Leave out what differs between any two containers."""
    seen = re.sub(r"(devpts|tmpfs|proc|mqueue|sysfs) \S+$", r"\1", seen, flags=re.MULTILINE)
    return seen.splitlines()
