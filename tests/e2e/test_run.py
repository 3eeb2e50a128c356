"""Run containers through a real containerd: the main road."""

from __future__ import annotations

import os
import platform
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.containerd import RUNTIME, Containerd
from tests.support.ids import make_id
from tests.support.leaks import find_processes
from tests.support.sandboxes import assert_gone
from tools.steps import BUILD

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("runtime", [RUNTIME, "io.containerd.run.kata.v2"])
def test_kernel_is_the_guests(containerd: Containerd, name: str, runtime: str) -> None:
    done = containerd.run(name, "uname", "-r", runtime=runtime)
    kernel = done.stdout.decode().strip()
    assert kernel.endswith("-cloud-amd64")
    assert kernel != platform.release()


def test_processes_of_a_sandbox(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sleep", "1000")
    listed = containerd.ctr("container", "ls").stdout.decode()
    row = next(line for line in listed.splitlines() if line.startswith(name))
    assert row.split()[-1] == RUNTIME
    programs = sorted({line.split()[1] for line in find_processes(name)})
    assert programs == ["containerd-shim-kata-v2", "qemu-system-x86_64", "virtiofsd"]
    inside = containerd.exec(name, "ps", "-o", "args").stdout.decode().splitlines()
    assert inside == ["COMMAND", "sleep 1000", "ps -o args"]


def test_trace_of_a_start(containerd: Containerd, name: str) -> None:
    containerd.start_container(name, "sleep", "1000")
    done = subprocess.run(
        [f"{BUILD}/bin/kata-runtime", "trace", name], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    # A machine that had waited was started before.
    parts = [line for line in lines if line.startswith(("start QEMU  ", "start virtiofsd  "))]
    assert len(parts) in (0, 2)
    for step in (
        "start machine", f"mount files of {name[:12]}",
        "wait for agent", "set up guest", f"create {name[:12]}", f"start {name[:12]}",
    ):  # fmt: skip
        (line,) = (line for line in lines if line.startswith(f"{step}  "))
        assert line.endswith(" ms")


def test_exit_codes_of_the_container(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "sh", "-c", "exit 42", check=False)
    assert done.returncode == 42


def test_killed_by_signal_is_128_plus_signal(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "sh", "-c", "sh -c 'kill -SEGV $$'; exit $?", check=False)
    assert done.returncode == 128 + 11


def test_every_exit_code_of_an_exec(containerd: Containerd, shared_name: str) -> None:
    codes = list(range(256))

    def run(code: int) -> int:
        return containerd.exec(shared_name, "sh", "-c", f"exit {code}", check=False).returncode

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, codes)) == codes


def test_stdout_and_stderr_are_separate(containerd: Containerd, name: str) -> None:
    done = containerd.run(name, "sh", "-c", "echo out; echo err >&2; printf tail")
    assert (done.stdout, done.stderr) == (b"out\ntail", b"err\n")


def test_environment_and_cwd(containerd: Containerd, name: str) -> None:
    flags = ["--env", "FOO=b=r", "--cwd", "/tmp"]
    done = containerd.run(name, "sh", "-c", 'echo "$FOO"; pwd', flags=flags)
    assert done.stdout == b"b=r\n/tmp\n"


def test_user_of_an_exec_owns_its_streams(containerd: Containerd, shared_name: str) -> None:
    script = "id -u; id -g; echo to-stderr > /dev/stderr"
    flags = ["--user", "65534:65534", "--cwd", "/tmp"]
    done = containerd.exec(shared_name, "sh", "-c", script, flags=flags)
    assert done.stdout == b"65534\n65534\n"
    assert done.stderr == b"to-stderr\n"


def test_host_folder_is_shared(
    containerd: Containerd, name: str, tmp_path: os.PathLike[str]
) -> None:
    with open(os.path.join(tmp_path, "in"), "w") as file:
        file.write("from the host")
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:rw"
    script = "cat /mnt/in; echo from the guest > /mnt/out"
    done = containerd.run(name, "sh", "-c", script, flags=["--mount", mount])
    assert done.stdout == b"from the host"
    with open(os.path.join(tmp_path, "out")) as file:
        assert file.read() == "from the guest\n"


def test_destination_with_the_longest_name(
    containerd: Containerd, name: str, tmp_path: Path
) -> None:
    (tmp_path / "in").write_text("from the host")
    target = f"/{'d' * 255}"
    mount = f"type=bind,src={tmp_path},dst={target},options=rbind:rw"
    done = containerd.run(name, "cat", f"{target}/in", flags=["--mount", mount])
    assert done.stdout == b"from the host"


@pytest.mark.parametrize("container", ["f" * 64, "longest." + "f" * 68])
def test_block_device_is_a_disk_of_the_guest(
    containerd: Containerd, tmp_path: Path, container: str
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"on the disk".ljust(1 << 20, b"\0"))
    losetup = ["losetup", "--find", "--show", str(disk)]
    device = subprocess.run(losetup, capture_output=True, text=True, check=True).stdout.strip()
    try:
        script = f"head -c 11 {device}; printf written | dd of={device} conv=fsync 2>/dev/null"
        done = containerd.run(container, "sh", "-c", script, flags=["--device", device])
        assert done.stdout == b"on the disk"
        assert_gone(container, containerd.address)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert disk.read_bytes().startswith(b"written")


def test_read_only_mount_is_read_only(
    containerd: Containerd, name: str, tmp_path: os.PathLike[str]
) -> None:
    mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:ro"
    done = containerd.run(name, "touch", "/mnt/x", flags=["--mount", mount], check=False)
    assert b"Read-only file system" in done.stderr
    assert os.listdir(tmp_path) == []


def test_read_only_and_what_is_mounted_below(
    containerd: Containerd, name: str, tmp_path: Path
) -> None:
    """As on a host: ``ro`` is for the mount alone, ``rro`` for those below as well."""
    below = tmp_path / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(below)], check=True)
    try:
        for option, refused in (("ro", 1), ("rro", 2)):
            mount = f"type=bind,src={tmp_path},dst=/mnt,options=rbind:{option}"
            script = f"touch /mnt/x; touch /mnt/below/{option}"
            done = containerd.run(name, "sh", "-c", script, flags=["--mount", mount], check=False)
            assert done.stderr.count(b"Read-only file system") == refused, done.stderr
        assert os.listdir(below) == ["ro"]
        assert os.listdir(tmp_path) == ["below"]
    finally:
        subprocess.run(["umount", "-l", str(below)], check=True)


def test_dmesg_shows_the_guests_log(containerd: Containerd, shared_name: str) -> None:
    assert b"Linux version" in containerd.exec(shared_name, "dmesg").stdout


def test_five_containers_at_once(containerd: Containerd) -> None:
    names = [make_id(f"at once {number}") for number in range(5)]

    def run(number: int) -> bytes:
        return containerd.run(names[number], "echo", str(number)).stdout

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(run, range(5))) == [f"{n}\n".encode() for n in range(5)]
    for name in names:
        assert_gone(name, containerd.address)


def test_output_without_reader_does_not_stop_the_container(
    containerd: Containerd, name: str
) -> None:
    command = containerd.command(
        "run", "--runtime", RUNTIME, "--rm", "docker.io/library/busybox:latest", name,
        "sh", "-c", "echo ready; sleep 1; echo more",
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"ready\n"
        running.kill()
    containerd.wait_status(name, "STOPPED")
