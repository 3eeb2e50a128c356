"""What cannot work ends soon, with one error that names the cause, and leaves nothing behind."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kata.image.cpio import character_device_entry, file_entry, render_archive, with_parents
from tests.support.containerd import IMAGE, RUNTIME, Containerd
from tests.support.ids import make_id
from tests.support.programs import find_reason
from tests.support.sandboxes import assert_gone
from tools.setup import CONFIGURATION

pytestmark = pytest.mark.e2e

Configure = Callable[..., str]
# The limit for an error once its cause is known.
LIMIT_S = 5.0


@pytest.fixture
def box(containerd: Containerd, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container's name of which nothing may be left."""
    name = make_id(request.node.name)
    yield name
    containerd.remove(name)
    assert_gone(name, containerd.address)


@pytest.fixture
def configure(tmp_path: Path) -> Configure:
    """A function that writes a configuration with some keys changed, and returns its path."""

    def write(**keys: object) -> str:
        text = Path(CONFIGURATION).read_text()
        for key, value in keys.items():
            literal = json.dumps(value)
            text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {literal}", text)
            assert count == 1, key
        path = tmp_path / "configuration.toml"
        path.write_text(text)
        return str(path)

    return write


def fail_run(containerd: Containerd, box: str, config: str, limit_s: float = LIMIT_S) -> str:
    """Run a container that cannot start; returns the error."""
    started = time.monotonic()
    done = containerd.run(
        box, "true", flags=["--runtime-config-path", config], check=False, timeout=60
    )
    took_s = time.monotonic() - started
    assert done.returncode != 0
    message = done.stderr.decode()
    assert took_s < limit_s, (took_s, message)
    assert message.count("ctr: ") == 1, message
    return message


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        *itertools.product(("path", "kernel", "initrd", "virtio_fs_daemon"), ("missing", "folder")),
        ("path", "no-program"),
        ("virtio_fs_daemon", "no-program"),
    ],
)
def test_file_of_the_machine_is_unusable(
    containerd: Containerd, box: str, configure: Configure, tmp_path: Path, key: str, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "folder":
        path.mkdir()
    elif kind == "no-program":
        path.write_text("no program")
    message = fail_run(containerd, box, configure(**{key: str(path)}))
    assert str(path) in message


def test_qemu_that_dies_at_start(containerd: Containerd, box: str, configure: Configure) -> None:
    message = fail_run(containerd, box, configure(machine_accelerators="nonsense=1"))
    assert "QEMU exited with status 1" in message
    assert "nonsense" in message.partition("last words")[2]


def test_virtiofsd_that_dies_at_start(
    containerd: Containerd, box: str, configure: Configure
) -> None:
    message = fail_run(containerd, box, configure(virtio_fs_extra_args=["--nonsense"]))
    assert "virtiofsd exited with status 2" in message
    assert "nonsense" in message.partition("last words")[2]


def test_guest_that_panics(containerd: Containerd, box: str, configure: Configure) -> None:
    message = fail_run(containerd, box, configure(kernel_params="rdinit=/nope init=/nope"), 15)
    assert "the guest powered off or its kernel panicked" in message
    assert "Kernel panic" in message.partition("console")[2]


def guest_with(tmp_path: Path, script: str) -> str:
    """Return an initrd whose only program is busybox running ``script``."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox").read_bytes()
    entries = [
        file_entry("bin/busybox", busybox, 0o755),
        file_entry("init", f"#!/bin/busybox sh\n{script}\n".encode(), 0o755),
        character_device_entry("dev/console", (5, 1), stat.S_IFCHR | 0o600),
    ]
    path = tmp_path / "initrd"
    path.write_bytes(b"".join(render_archive(with_parents(entries))))
    return str(path)


def test_guest_that_powers_off(
    containerd: Containerd, box: str, configure: Configure, tmp_path: Path
) -> None:
    initrd = guest_with(tmp_path, "echo goodbye; exec /bin/busybox poweroff -f")
    message = fail_run(containerd, box, configure(initrd=initrd), 15)
    assert "the guest powered off or its kernel panicked" in message
    assert "goodbye" in message.partition("console")[2]


def test_agent_that_never_answers_is_told_from_a_dead_machine(
    containerd: Containerd, box: str, configure: Configure, tmp_path: Path
) -> None:
    initrd = guest_with(tmp_path, "echo hello; exec /bin/busybox sleep 1000")
    message = fail_run(containerd, box, configure(initrd=initrd, dial_timeout=4), 4 + LIMIT_S)
    assert "the agent does not answer although the machine runs" in message
    assert "dial_timeout" in message
    assert "hello" in message


def test_memory_that_does_not_fit(containerd: Containerd, box: str, configure: Configure) -> None:
    message = fail_run(containerd, box, configure(default_memory=8_000_000))
    assert "/dev/shm" in message
    assert "8000000 MiB" in message


def test_memory_folder_that_is_missing(
    containerd: Containerd, box: str, configure: Configure
) -> None:
    message = fail_run(containerd, box, configure(file_mem_backend="/nonexistent/shm"))
    assert "/nonexistent/shm" in message
    assert "file_mem_backend" in message


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ('[hypervisor.qemu]\nkernle = "/x"\n', "kernel"),
        ("[hypervisor.qemu]\ndefault_vcpus = []\n", "default_vcpus"),
        ("[hypervisor.qemu\n", "configuration.toml"),
    ],
)
def test_configuration_that_is_wrong(
    containerd: Containerd, box: str, tmp_path: Path, line: str, wanted: str
) -> None:
    path = tmp_path / "configuration.toml"
    path.write_text(line)
    message = fail_run(containerd, box, str(path))
    assert str(path) in message
    assert wanted in message


def test_configuration_that_is_missing(containerd: Containerd, box: str) -> None:
    assert "/nonexistent.toml" in fail_run(containerd, box, "/nonexistent.toml")


def test_command_that_does_not_exist(containerd: Containerd, box: str) -> None:
    done = containerd.run(box, "/no/such/command", check=False)
    assert done.returncode != 0
    assert "/no/such/command" in done.stderr.decode()
    assert "no such file or directory" in done.stderr.decode().lower()


def test_exec_that_does_not_exist_leaves_the_container_alone(
    containerd: Containerd, box: str
) -> None:
    containerd.start_container(box, "sleep", "1000")
    started = time.monotonic()
    done = containerd.exec(box, "/no/such/command", check=False)
    assert time.monotonic() - started < LIMIT_S
    assert done.returncode != 0
    assert "/no/such/command" in done.stderr.decode()
    assert containerd.exec(box, "echo", "alive").stdout == b"alive\n"


def test_volume_that_does_not_exist(containerd: Containerd, box: str) -> None:
    mount = "type=bind,src=/nonexistent/volume,dst=/mnt,options=rbind:ro"
    done = containerd.run(box, "true", flags=["--mount", mount], check=False)
    assert "/nonexistent/volume" in done.stderr.decode()


def test_second_container_of_one_id(containerd: Containerd, box: str) -> None:
    containerd.start_container(box, "sleep", "1000")
    done = containerd.run(box, "true", check=False)
    assert "already exists" in done.stderr.decode()
    assert containerd.exec(box, "echo", "alive").stdout == b"alive\n"


def test_same_id_in_another_namespace(containerd: Containerd, box: str, image_archive: str) -> None:
    """The second is refused, and its clean-up by containerd does the first no harm."""
    containerd.start_container(box, "sleep", "1000")
    containerd.ctr("-n", "other", "image", "import", image_archive)
    run = ["-n", "other", "run", "--runtime", RUNTIME, "--rm", IMAGE, box, "true"]
    done = containerd.ctr(*run, check=False)
    assert "exists already" in done.stderr.decode()
    assert containerd.exec(box, "echo", "alive").stdout == b"alive\n"
    containerd.ctr("-n", "other", "container", "delete", box, check=False)


@pytest.mark.parametrize("word", ["/nosuch", "nosuch", "/bin", "/etc/passwd"])
def test_program_that_cannot_be_executed(containerd: Containerd, box: str, word: str) -> None:
    """What ctr says is what it says of runc."""
    found, expected = (
        containerd.run(box, word, check=False, runtime=runtime)
        for runtime in (RUNTIME, "io.containerd.runc.v2")
    )
    assert found.returncode == expected.returncode == 1
    assert find_reason(found.stderr.decode()) == find_reason(expected.stderr.decode())
