"""What a privileged container does with the kernel: beside runc, and what only a machine gives."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kata.guest.privileges import CAPABILITIES
from tests.support.debian_root import debian_root
from tests.support.runtime import Bundle, Runtime, run_engine, wait_until

pytestmark = pytest.mark.e2e

PACKAGES = (
    "cifs-utils",
    "e2fsprogs",
    "fuse-overlayfs",
    "iproute2",
    "mount",
    "nfs-common",
    "nfs-ganesha",
    "nfs-ganesha-mem",
    "samba",
)
# Mounts of a kernel, with what they print.
SCRIPT = """
set -e
cd /scratch
truncate -s 32M image && mkfs.ext4 -q image && mkdir loop && mount -o loop image loop
echo written > loop/file && umount loop && mount -o loop,ro image loop && cat loop/file
touch loop/other 2>/dev/null || echo read-only
umount loop
mkdir lower upper work overlay && echo low > lower/a
mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work overlay
echo high > overlay/b && rm overlay/a && ls overlay && stat -c '%F %t:%T' upper/a && umount overlay
mkdir upper2 work2
fuse-overlayfs -o lowerdir=upper,upperdir=upper2,workdir=work2 overlay
cat overlay/b && touch overlay/c && ls upper2 && umount overlay
mknod zero c 1 5 && head -c 3 zero | od -An -tx1
stat -c '%F' /dev/kmsg /dev/fuse /dev/net/tun /dev/loop-control /dev/loop0
"""
GANESHA = """
NFS_CORE_PARAM { Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false; }
NFSV4 { Graceless = true; Grace_Period = 0; RecoveryBackend = fs; }
EXPORT {
  Export_Id = 1; Path = /m; Pseudo = /m; Access_Type = RW; Squash = No_Root_Squash; SecType = sys;
  FSAL { Name = MEM; }
}
"""
NFS = """
set -e
ip link set lo up
mkdir -p /run/ganesha /var/lib/nfs/ganesha /mnt/nfs
ganesha.nfsd -f /scratch/ganesha.conf -L /scratch/ganesha.log -p /run/ganesha.pid
i=0; until ss -ltn | grep -q :2049 || [ $i = 300 ]; do sleep 0.1; i=$((i + 1)); done
mount -t nfs -o vers=4.1,sec=sys 127.0.0.1:/m /mnt/nfs
echo by nfs > /mnt/nfs/file && cat /mnt/nfs/file && stat -fc %T /mnt/nfs && umount /mnt/nfs
"""
SAMBA = """
[global]
passdb backend = tdbsam
load printers = no
disable spoolss = yes
[share]
path = /srv
read only = no
"""
CIFS = """
set -e
ip link set lo up
mkdir -p /var/lib/samba/private /run/samba /var/log/samba /mnt/cifs && chmod 777 /srv
printf 'word\\nword\\n' | smbpasswd -c /scratch/samba.conf -a -s root > /dev/null
smbd -D -s /scratch/samba.conf
i=0; until ss -ltn | grep -q :445 || [ $i = 300 ]; do sleep 0.1; i=$((i + 1)); done
for options in sign seal; do
  mount -t cifs -o user=root,pass=word,ip=127.0.0.1,$options //127.0.0.1/share /mnt/cifs
  echo by cifs, $options > /mnt/cifs/file && cat /srv/file && umount /mnt/cifs
done
"""

DOCKER = """
set -e
containerd > /scratch/containerd.log 2>&1 &
i=0; until [ -S /run/containerd/containerd.sock ] || [ $i = 100 ]; do sleep 1; i=$((i + 1)); done
dockerd --containerd /run/containerd/containerd.sock > /scratch/dockerd.log 2>&1 &
i=0; until docker version > /dev/null 2>&1 || [ $i = 200 ]; do sleep 1; i=$((i + 1)); done
docker info 2> /dev/null | grep -E 'Storage Driver|Backing Filesystem'
tar -c -C / --no-recursion bin lib lib64 usr/bin usr/lib usr/lib64 usr/bin/dash usr/bin/sh \
  usr/lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu/libc.so.6 \
  usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 usr/lib64/ld-linux-x86-64.so.2 \
  | docker import - small > /dev/null
docker run --rm small /bin/sh -c 'echo inside; read what where < /proc/self/mounts; echo $what'
"""
# It takes four minutes where processors are emulated.
DOCKER_S = 600.0


def open_up(spec: dict[str, Any]) -> None:
    """Make a spec that of a privileged container, with the host's devices, as engines do."""
    names = [f"CAP_{name}" for name in CAPABILITIES if name != "SYS_RESOURCE"]
    kinds = ("bounding", "effective", "permitted")
    spec["process"]["capabilities"] = dict.fromkeys(kinds, names)
    spec["process"]["noNewPrivileges"] = False
    spec["process"]["env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
    spec["linux"]["maskedPaths"] = spec["linux"]["readonlyPaths"] = []
    spec["linux"]["resources"] = {"devices": [{"allow": True, "access": "rwm"}]}
    spec["linux"]["devices"] = list_host_devices()
    for mount in spec["mounts"]:
        mount["options"] = [word for word in mount.get("options") or [] if word != "ro"]


def list_host_devices() -> list[dict[str, Any]]:
    """Return the host's, as the spec names them."""
    found = []
    for path in [*Path("/dev").iterdir(), *Path("/dev/net").iterdir()]:
        facts = path.lstat()
        kind = {stat.S_IFBLK: "b", stat.S_IFCHR: "c"}.get(stat.S_IFMT(facts.st_mode))
        if kind and path.name != "console":
            numbers = {"major": os.major(facts.st_rdev), "minor": os.minor(facts.st_rdev)}
            found.append({"path": str(path), "type": kind, **numbers})
    return found


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with what makes, mounts and serves file systems."""
    folder = tmp_path_factory.mktemp("tools")
    subprocess.run(["tar", "-xf", debian_root(PACKAGES), "-C", str(folder)], check=True)
    folder.chmod(0o755)
    return folder


def bundle_with(folder: Path, tools: Path, scratch: str) -> Bundle:
    """Return a privileged bundle with an empty volume."""
    volume = folder / scratch
    volume.mkdir()
    bundle = Bundle(folder / f"bundle-{scratch}", tools)
    open_up(bundle.spec)
    bundle.spec["mounts"].append(
        {"destination": "/scratch", "type": "bind", "source": str(volume), "options": ["rbind"]}
    )
    return bundle


@pytest.fixture(scope="module")
def inside(
    shared_runtime: Runtime, tools: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    """A privileged container; its name is ``privileged``, its volume has the servers' settings."""
    folder = tmp_path_factory.mktemp("privileged")
    bundle = bundle_with(folder, tools, "ours")
    (folder / "ours" / "ganesha.conf").write_text(GANESHA)
    (folder / "ours" / "samba.conf").write_text(SAMBA)
    shared_runtime.create(bundle.run("sleep", "100000"), "privileged")
    shared_runtime.call("start", "privileged")
    yield shared_runtime
    shared_runtime.call("delete", "--force", "privileged")


def ask(inside: Runtime, script: str) -> str:
    return inside.call("exec", "privileged", "sh", "-c", script).stdout


def test_mounts_and_devices_as_with_runc(inside: Runtime, tools: Path, tmp_path: Path) -> None:
    """File systems by loop, overlay and fuse on a volume, and nodes in it."""
    bundle = bundle_with(tmp_path, tools, "runcs").run("sh", "-c", SCRIPT)
    runc = ("runc", "--root", str(tmp_path / "root"), "run", "-b", str(bundle.folder), "beside")
    told = run_engine(runc).stdout
    assert told.startswith("written\nread-only\nb\ncharacter special file 0:0\nhigh\nc\n")
    assert ask(inside, SCRIPT) == told


@pytest.mark.skipif("KATA_TEST_DOCKER" not in os.environ, reason="KATA_TEST_DOCKER is not set")
def test_docker_on_a_volume(runtime: Runtime, name: str, tmp_path: Path) -> None:
    """Docker with overlay2 on a volume, and with a bridge and iptables."""
    tools = tmp_path / "root"
    tools.mkdir(mode=0o755)
    archive = debian_root(("docker.io", "iptables"))
    subprocess.run(["tar", "-xf", archive, "-C", str(tools)], check=True)
    bundle = bundle_with(tmp_path, tools, "scratch")
    bundle.spec["mounts"].append({**bundle.spec["mounts"][-1], "destination": "/var/lib/docker"})
    bundle.spec["linux"]["resources"]["memory"] = {"limit": 1 << 29}
    runtime.create(bundle.run("sh", "-c", DOCKER), name, output=tmp_path / "output")
    runtime.call("start", name)
    wait_until(lambda: runtime.status(name) == "stopped", DOCKER_S)
    told = (tmp_path / "output").read_text()
    wanted = "Storage Driver: overlay2 Backing Filesystem: fuse inside overlay"
    assert " ".join(told.split()) == wanted


def test_devices_are_the_guests(inside: Runtime) -> None:
    nodes = ask(inside, "cd /dev && find . -type b -o -type c").split()
    assert {"./mem", "./kmsg", "./ttyS0", "./net/tun", "./loop0"} <= set(nodes)
    assert not [name for name in nodes if name.startswith(("./vport", "./hvc"))]
    # Loop devices are there, as the guest's; of the host's disks none.
    disks = {entry["path"] for entry in list_host_devices() if entry["type"] == "b"}
    assert {f"/dev/{name[2:]}" for name in nodes} & disks <= {f"/dev/loop{n}" for n in range(8)}


def test_nfs(inside: Runtime) -> None:
    assert ask(inside, NFS) == "by nfs\nnfs\n"


def test_cifs(inside: Runtime) -> None:
    """With messages that are signed, and that are sealed."""
    assert ask(inside, CIFS) == "by cifs, sign\nby cifs, seal\n"
