"""Volumes that are the host kernel's own file systems, or have them below."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.containerd import Containerd

pytestmark = pytest.mark.e2e


def mount_flag(source: object, target: str, options: str = "rbind:rw") -> tuple[str, str]:
    """Return ctr's words for a bind mount."""
    return "--mount", f"type=bind,src={source},dst={target},options={options}"


@contextmanager
def mounted(kind: str, point: Path) -> Iterator[Path]:
    """Mount a file system on a new folder of the host."""
    point.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", kind, kind, str(point)], check=True)
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


@pytest.fixture
def hierarchy(tmp_path: Path) -> Iterator[Path]:
    """A hierarchy of the host's cgroups, of version 2."""
    with mounted("cgroup2", tmp_path / "cgroup2") as point:
        yield point


@pytest.mark.parametrize(
    ("source", "kind"), [("/proc", "proc"), ("/sys", "sysfs"), ("cgroup2", "cgroup2")]
)
def test_the_whole_is_the_guests_own(
    containerd: Containerd, name: str, hierarchy: Path, source: str, kind: str
) -> None:
    """Also that of the host somewhere else; what is written there is the guest's as well."""
    path = hierarchy if source == "cgroup2" else Path(source)
    before = set(path.glob("*"))
    script = (
        "awk '$2 == \"/host\" {print $3}' /proc/mounts; mkdir /host/made 2>/dev/null;"
        " stat -f -c %T /host; cat /host/uptime /host/kernel/notes 2>/dev/null | wc -c"
    )
    done = containerd.run(name, "sh", "-c", script, flags=mount_flag(path, "/host"), check=False)
    assert done.stdout.decode().split()[0] == kind, done
    assert not (path / "made").exists()
    if kind == "cgroup2":
        assert set(path.glob("*")) == before


def test_a_part_is_the_guests(containerd: Containerd, name: str) -> None:
    host = Path("/proc/sys/kernel/random/boot_id").read_text()
    flags = (*mount_flag("/proc/sys", "/sysctl"), *mount_flag("/sys/kernel", "/kernel", "rbind:ro"))
    script = (
        "cmp /sysctl/kernel/random/boot_id /proc/sys/kernel/random/boot_id || exit 1;"
        " cat /sysctl/kernel/random/boot_id; echo 1 > /sysctl/vm/swappiness;"
        " echo 1 > /kernel/profiling"
    )
    swappiness = Path("/proc/sys/vm/swappiness").read_text()
    done = containerd.run(name, "sh", "-c", script, flags=flags, check=False)
    assert b"Read-only file system" in done.stderr
    assert len(done.stdout) == len(host), done
    assert done.stdout.decode() != host
    assert Path("/proc/sys/vm/swappiness").read_text() == swappiness


def test_a_process_of_the_host_is_refused(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "true", flags=mount_flag("/proc/1", "/host"), check=False)
    assert done.returncode != 0
    assert b"mount /host: /proc/1 is on the host's proc" in done.stderr


def test_a_part_of_the_hosts_cgroups_is_refused(
    containerd: Containerd, name: str, hierarchy: Path
) -> None:
    below = hierarchy / "kata-test-below"
    below.mkdir()
    try:
        done = containerd.run(name, "true", flags=mount_flag(below, "/host"), check=False)
        assert f"{below} is on the host's cgroup2".encode() in done.stderr
    finally:
        below.rmdir()


def test_the_hosts_root_without_its_kernel(
    containerd: Containerd, name: str, hierarchy: Path
) -> None:
    """Files of every other file system are there; the kernel's are empty folders."""
    tree = hierarchy.parent
    with mounted("tmpfs", tree / "memory"), mounted("proc", tree / "memory" / "proc"):
        (tree / "memory" / "file").write_text("below\n")
        script = (
            f"cat /host{tree}/memory/file; ls -A /host/proc /host/sys"
            f" /host{hierarchy} /host{tree}/memory/proc | grep -v '^/' | grep .;"
            " test ! -e /host/dev/loop-control &&"  # the folder below /dev may have others
            " test -e /host/etc/passwd && echo root"
        )
        done = containerd.run(name, "sh", "-c", script, flags=mount_flag("/", "/host"))
        assert done.stdout == b"below\nroot\n"


def test_mounts_made_later_without_the_kernels(
    containerd: Containerd, name: str, tmp_path: Path
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "--bind", volume, volume], check=True)
    subprocess.run(["mount", "--make-shared", volume], check=True)
    try:
        for folder in ("first", "later", "kernel"):
            (volume / folder).mkdir()
        with mounted("tmpfs", volume / "first") as first:
            (first / "file").write_text("first\n")
            flags = mount_flag(volume, "/mnt", "rbind:rslave:rw")
            containerd.start_container(name, "sleep", "1000", flags=flags)
            look = ("cat", "/mnt/first/file")
            assert containerd.exec(name, *look).stdout == b"first\n"
            with mounted("cgroup2", volume / "kernel"), mounted("tmpfs", volume / "later") as later:
                (later / "file").write_text("later\n")
                script = "until cat /mnt/later/file 2>/dev/null; do sleep 0.1; done"
                assert containerd.exec(name, "sh", "-c", script).stdout == b"later\n"
                assert containerd.exec(name, "ls", "-A", "/mnt/kernel").stdout == b""
        script = "while test -e /mnt/later/file -o -e /mnt/first/file; do sleep 0.1; done"
        containerd.exec(name, "sh", "-c", script)
        containerd.remove(name)
    finally:
        subprocess.run(["umount", "-l", volume], check=True)
