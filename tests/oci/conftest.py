"""The runtime with a root of its own, bundles, and a container that tests can share."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.factory import end_factory
from tests.support.ids import make_id
from tests.support.leaks import assert_nothing_new, take_inventory
from tests.support.runtime import Bundle, Runtime, unpack_busybox

BundleMaker = Callable[[], Bundle]


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that no test changes."""
    folder = tmp_path_factory.mktemp("rootfs")
    unpack_busybox(folder)
    folder.chmod(0o755)  # users of containers have to get in
    return folder


@pytest.fixture(scope="session")
def host() -> None:
    """Have no other checkout's factory."""
    end_factory()


@pytest.fixture(scope="module")
def shared_runtime(host: None) -> Iterator[Runtime]:
    """The runtime, for a module's tests."""
    before = take_inventory()
    with tempfile.TemporaryDirectory(prefix="kata-oci-") as folder:
        runtime = Runtime(Path(folder))
        yield runtime
        runtime.remove_all()
        assert not any(runtime.root.iterdir()) if runtime.root.exists() else True
    assert_nothing_new(before)


@pytest.fixture
def runtime(shared_runtime: Runtime) -> Iterator[Runtime]:
    """The runtime; what a test leaves is deleted, and then nothing may be left of it."""
    kept = set(shared_runtime.list_names())
    before = take_inventory()
    yield shared_runtime
    for name in set(shared_runtime.list_names()) - kept:
        shared_runtime.call("delete", "--force", name)
    assert_nothing_new(before)


@pytest.fixture
def bundle(tmp_path: Path, rootfs: Path) -> Bundle:
    """A bundle."""
    return Bundle(tmp_path / "bundle", rootfs)


@pytest.fixture
def make_bundle(tmp_path: Path, rootfs: Path) -> BundleMaker:
    """What makes any number of bundles."""
    numbers = itertools.count()
    return lambda: Bundle(tmp_path / f"bundle{next(numbers)}", rootfs)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A container's id."""
    return make_id(request.node.name)


@pytest.fixture(scope="module")
def shared(shared_runtime: Runtime, rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A running container that tests use and do not change."""
    bundle = Bundle(tmp_path_factory.mktemp("shared") / "bundle", rootfs)
    name = make_id("shared")
    shared_runtime.create(bundle.run("sleep", "100000"), name)
    shared_runtime.call("start", name)
    return name
