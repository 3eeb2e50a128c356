"""Buildah with kata-runtime: commands that run in a container that is being built."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import pytest

from tests.engines.conftest import Engine
from tests.support.netns import Netns
from tests.support.runtime import unmount_below

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def buildah(clean: None, netns: Netns) -> Iterator[Engine]:
    """Debian's Buildah."""
    with tempfile.TemporaryDirectory(prefix="kata-buildah-") as folder:
        flags = ("--root", f"{folder}/root", "--runroot", f"{folder}/run")
        yield Engine(netns, "buildah", *flags, "--storage-driver", "overlay")
        unmount_below(folder)


def test_a_command_changes_what_is_built(buildah: Engine, layer: str, wrapper: str) -> None:
    name = buildah.run("from", "scratch")
    buildah.call("add", "--quiet", name, layer)
    run = ("run", "--isolation", "oci", "--runtime", wrapper, "--network", "none", name, "--")
    done = buildah.call(*run, "sh", "-c", "uname -r > /made; cat /made; exit 3", check=False)
    assert done.returncode == 3
    mounted = buildah.run("mount", name)
    with open(f"{mounted}/made") as file:
        assert file.read() == done.stdout
    missing = buildah.call(*run, "nope", check=False)
    assert missing.returncode
    buildah.call("umount", name)
    buildah.call("rm", name)
