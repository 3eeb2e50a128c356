"""One containerd for all tests of a session, and a container for those that can share one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containerd import Containerd
from tests.support.factory import end_factory, make_template
from tests.support.ids import make_id
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.sandboxes import assert_gone
from tools import busybox_image

# Paths of sockets are limited to 108 bytes, so not below pytest's own folder.
FOLDER_PREFIX = "kata-e2e-"


@pytest.fixture(scope="session")
def image_archive(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An OCI archive of busybox."""
    return busybox_image.cached_image(str(tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="session")
def containerd(image_archive: str) -> Iterator[Containerd]:
    """Debian's containerd, running, with the busybox image."""
    end_factory()
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as folder:
        daemon = Containerd(Path(folder))
        daemon.start()
        daemon.ctr("image", "import", image_archive)
        yield daemon
        daemon.stop()
    assert_nothing_new(before)


@pytest.fixture(scope="session")
def shared_name(containerd: Containerd) -> Iterator[str]:
    """A running container that tests use and do not change."""
    name = make_id("shared")
    containerd.start_container(name, "sleep", "1000000")
    yield name
    containerd.remove(name)


@pytest.fixture
def template(containerd: Containerd) -> str:
    """The folder of a template for sandboxes of the usual kind."""
    return make_template(containerd)


@pytest.fixture
def name(containerd: Containerd, request: pytest.FixtureRequest) -> Iterator[str]:
    """A container's name; whatever the test leaves is removed, and then nothing may be left."""
    container = make_id(request.node.name)
    yield container
    containerd.remove(container)
    assert_gone(container, containerd.address)
