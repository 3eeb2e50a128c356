"""containerd's own shim with kata-runtime as its program, as Kata 1 was set up (katacli)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FOLDER_PREFIX
from tests.support.containerd import IMAGE, Containerd
from tests.support.runtime import wait_until
from tools import busybox_image

pytestmark = pytest.mark.e2e

RUNC = "io.containerd.runc.v2"


@pytest.fixture(scope="module")
def containerd(clean: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """Debian's containerd with an image."""
    archive = busybox_image.cached_image(str(tmp_path_factory.mktemp("image")))
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder))
        daemon.start()
        daemon.ctr("image", "import", archive)
        yield daemon
        daemon.stop()


def test_ctr_run_with_the_binary(containerd: Containerd, wrapper: str) -> None:
    runtime = ("--runtime", RUNC, "--runc-binary", wrapper)
    done = containerd.ctr(
        "run", "--rm", *runtime, IMAGE, "r1", "sh", "-c", "uname -r; exit 7", check=False
    )
    assert done.returncode == 7
    assert done.stdout.decode().strip() != os.uname().release


def test_tasks_with_the_binary(containerd: Containerd, wrapper: str) -> None:
    runtime = ("--runtime", RUNC, "--runc-binary", wrapper)
    containerd.ctr("run", "-d", *runtime, IMAGE, "r2", "sleep", "1000")
    done = containerd.ctr("task", "exec", "--exec-id", "e", "r2", "sh", "-c", "exit 5", check=False)
    assert done.returncode == 5
    containerd.ctr("task", "pause", "r2")
    assert b"PAUSED" in containerd.ctr("task", "ls").stdout
    containerd.ctr("task", "resume", "r2")
    assert b"memory" in containerd.ctr("task", "metrics", "r2").stdout
    containerd.ctr("task", "kill", "--signal", "KILL", "r2")
    wait_until(lambda: b"STOPPED" in containerd.ctr("task", "ls").stdout)
    containerd.ctr("container", "rm", "r2")
