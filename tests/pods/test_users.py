"""Pods with users of their own (``hostUsers: false``): containerd 2.x, kubelet's way of asking."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pods.conftest import FOLDER_PREFIX, remove_all
from tests.support.cri import runtime_pb2 as pb
from tests.support.cri.bed import SETTINGS_2, Node, make_node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Container, Pod
from tools import other_debian
from tools.steps import BUILD

pytestmark = pytest.mark.e2e

# containerd's CRI asks for features only where the type is this one, and kubelet only gives a pod
# users of its own where the features say so.
HANDLER_OF_KUBELET = f"""\
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata-users]
      runtime_type = "io.containerd.runc.v2"
      runtime_path = "{BUILD}/bin/containerd-shim-kata-v2"
"""
FIRST = 100000
IDS = [{"host_id": FIRST, "container_id": 0, "length": 65536}]
USERS = {"mode": pb.POD, "uids": IDS, "gids": IDS}


def options(pid: int = pb.CONTAINER) -> dict[str, Any]:
    return {"pid": pid, "userns_options": USERS}


def mapped_volume(source: Path, **fields: Any) -> dict[str, Any]:
    """Return a volume as kubelet describes it to a pod with users of its own."""
    mount = {"container_path": "/data", "host_path": str(source), **fields}
    return {"mounts": [{**mount, "uidMappings": IDS, "gidMappings": IDS}]}


def run(pod: Pod, *command: str, pid: int = pb.CONTAINER, **fields: Any) -> Container:
    return pod.run(*command, namespace_options=options(pid), **fields)


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with containerd 2.x."""
    programs = Path(other_debian.unpack("sid", ["containerd"])) / "usr/bin"
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        with make_node(Path(folder), SETTINGS_2 + HANDLER_OF_KUBELET, programs) as node:
            yield node


@pytest.fixture(scope="module")
def users_pod(node: Node) -> Iterator[Pod]:
    """A pod with users of its own."""
    pod = Pod(node, linux={"security_context": {"namespace_options": options()}})
    yield pod
    remove_all([pod])


@pytest.fixture(scope="module")
def container(users_pod: Pod) -> Container:
    """A running container of it."""
    return run(users_pod)


@pytest.fixture
def pod(users_pod: Pod) -> Iterator[Pod]:
    """The pod; containers that the test leaves are removed."""
    before = {container.id for container in users_pod.cri.list_containers(users_pod.id)}
    yield users_pod
    for container in users_pod.cri.list_containers(users_pod.id):
        if container.id not in before:
            users_pod.cri.remove(container.id)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of the host; what a test mounts there is taken away."""
    path = tmp_path / "volumes" / "kubernetes.io~empty-dir" / "cache"
    path.mkdir(parents=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)


def test_the_handler_that_kubelet_trusts(node: Node, folder: Path) -> None:
    features = node.cri.handler_features()["kata-users"]
    assert features.user_namespaces
    assert features.recursive_read_only_mounts
    pod = Pod(node, "kata-users", linux={"security_context": {"namespace_options": options()}})
    try:
        volume = mapped_volume(folder, readonly=True, recursive_read_only=True)
        container = run(pod, **volume)
        assert container.sh("cat /proc/self/uid_map").split() == ["0", str(FIRST), "65536"]
        assert container.sh("uname -r") != os.uname().release
        assert "Read-only file system" in container.sh("touch /data/new 2>&1 || true")
    finally:
        remove_all([pod])


def test_root_is_another_user_of_the_guest(container: Container) -> None:
    for kind in ("uid", "gid"):
        assert container.sh(f"cat /proc/self/{kind}_map").split() == ["0", str(FIRST), "65536"]
    assert container.sh("id -u; id -g").split() == ["0", "0"]
    # The guest's own root owns what no image brought.
    assert container.sh("stat -c %u:%g /proc/sys/kernel/hostname") == "65534:65534"


def test_the_images_files_are_roots(container: Container) -> None:
    assert container.sh("stat -c %u:%g / /bin/sh /etc").split() == ["0:0"] * 3
    assert container.sh("touch /new; chown 7:8 /new; stat -c %u:%g /new") == "7:8"
    assert "Invalid argument" in container.sh("chown 65536 /new 2>&1 || true")


def test_files_of_the_node_are_roots(container: Container) -> None:
    names = "/etc/hosts /etc/resolv.conf /etc/hostname"
    assert container.sh(f"stat -c %u:%g {names}").split() == ["0:0"] * 3


def test_the_pods_name_and_ipc_are_shared(users_pod: Pod, container: Container) -> None:
    other = run(users_pod)
    assert container.sh("hostname") == other.sh("hostname") == users_pod.config.hostname
    for kind, same in {"user": True, "ipc": True, "uts": True, "pid": False, "mnt": False}.items():
        links = [each.sh(f"readlink /proc/self/ns/{kind}") for each in (container, other)]
        assert (links[0] == links[1]) is same, kind
    other.remove()


def test_processes_shared_by_the_pod(node: Node) -> None:
    shared = {"security_context": {"namespace_options": options(pb.POD)}}
    pod = Pod(node, linux=shared)
    try:
        first = run(pod, pid=pb.POD)
        assert first.sh("cat /proc/1/comm") == "catatonit"
        second = run(pod, "sleep", "4711", pid=pb.POD)
        assert "sleep 4711" in first.sh("ps")
        second.stop()
        assert "sleep 4711" not in first.sh("ps")
    finally:
        remove_all([pod])


def test_a_terminal_and_streams_of_a_user(pod: Pod) -> None:
    container = run(pod, run_as_user={"value": 1000}, run_as_group={"value": 1000})
    assert container.sh("id -u; echo said > /dev/stdout").split() == ["1000", "said"]
    with pod.cri.exec(container.id, ["sh", "-c", "tty; id -u"], tty=True) as session:
        assert session.wait() == 0
        assert session.stdout == b"/dev/pts/0\r\n1000\r\n"


def test_a_volume_keeps_the_hosts_owners(pod: Pod, folder: Path) -> None:
    (folder / "from-host").write_text("one")
    os.chown(folder / "from-host", 5, 6)
    container = run(pod, **mapped_volume(folder))
    assert container.sh("stat -c %u:%g /data /data/from-host").split() == ["0:0", "5:6"]
    container.sh("echo x > /data/root; echo x > /data/other; chown 9:10 /data/other")
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}
    assert owners == {"from-host": (5, 6), "root": (0, 0), "other": (9, 10)}


def test_a_read_only_volume(pod: Pod, folder: Path) -> None:
    (folder / "kept").write_text("one")
    container = run(pod, **mapped_volume(folder, readonly=True))
    assert "Read-only file system" in container.sh("touch /data/new 2>&1 || true")
    assert container.sh("cat /data/kept") == "one"


def test_a_volume_without_a_map_is_nobodys(pod: Pod, folder: Path) -> None:
    (folder / "secret").write_text("one")
    (folder / "secret").chmod(0o600)
    mount = {"container_path": "/data", "host_path": str(folder)}
    container = run(pod, mounts=[mount])
    assert container.sh("stat -c %u /data/secret") == "65534"
    assert "Permission denied" in container.sh("cat /data/secret 2>&1 || true")


def test_a_volume_in_memory(pod: Pod, folder: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0770,gid=77", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    first = run(pod, **mapped_volume(folder))
    second = run(pod, **mapped_volume(folder))
    assert first.sh("stat -c %u:%g /data; echo hello > /data/file") == "0:77"
    assert second.sh("cat /data/file") == "hello"
    assert list(folder.iterdir()) == []


def test_a_secret_is_roots_and_followed(pod: Pod, tmp_path: Path) -> None:
    volume = tmp_path / "volumes" / "kubernetes.io~secret" / "keys"
    volume.mkdir(parents=True)
    (volume / "key").write_text("one")
    (volume / "key").chmod(0o400)
    container = run(pod, **mapped_volume(volume))
    assert container.sh("stat -c %u:%g:%a /data/key; cat /data/key").split() == ["0:0:400", "one"]
    (volume / "new").write_text("two")
    os.rename(volume / "new", volume / "key")
    container.sh("for i in $(seq 50); do grep -q two /data/key && exit; sleep 0.1; done; exit 1")


def test_a_volume_that_cannot_be_mapped_is_refused(pod: Pod, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "ramfs", "ramfs", tmp_path], check=True)
    try:
        with pytest.raises(CriError, match=rf"map the owners of {tmp_path}: .*hostUsers"):
            run(pod, **mapped_volume(tmp_path))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_server_on_a_low_port(pod: Pod, container: Container) -> None:
    page = ["sh", "-c", "mkdir /www; echo hello > /www/index.html; httpd -f -p 80 -h /www"]
    run(pod, *page)
    get = f"for i in $(seq 50); do wget -qO- http://{pod.ip}/ && exit; sleep 0.1; done; exit 1"
    assert container.sh(get) == "hello"


def test_privileges_are_those_of_the_pods_root(pod: Pod) -> None:
    capabilities = {"add_capabilities": ["ALL"]}
    container = run(pod, capabilities=capabilities)
    assert "Operation not permitted" in container.sh("mknod /tmp/x b 8 0 2>&1 || true")
    assert container.sh("mkdir /m && mount -t tmpfs tmpfs /m && stat -f -c %T /m") == "tmpfs"


def test_another_map_is_refused(pod: Pod) -> None:
    other = {"mode": pb.POD, "uids": [{**IDS[0], "host_id": 500000}], "gids": IDS}
    with pytest.raises(CriError, match="user namespace"):
        pod.run(namespace_options={"pid": pb.CONTAINER, "userns_options": other})
