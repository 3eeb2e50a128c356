"""Programs that cannot be executed: engines end with the statuses that they end with by runc."""

from __future__ import annotations

import pytest

from tests.engines.conftest import Engine, list_sandboxes
from tests.support.programs import CASES, Case, add_programs
from tests.support.runtime import run_engine, unpack_busybox, wait_until

pytestmark = pytest.mark.e2e

IMAGE = "localhost/programs"
EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))

STATUSES = {"missing": 127, "folder": 126, "not executable": 126, "unknown format": 1}


@pytest.fixture(scope="module")
def layer_of_programs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Their root file system as a tar file."""
    folder = tmp_path_factory.mktemp("programs")
    root = folder / "root"
    root.mkdir()
    unpack_busybox(root)
    add_programs(root)
    archive = folder / "root.tar"
    run_engine(["tar", "-C", str(root), "-cf", str(archive), "."])
    return str(archive)


# How each is told to run a container by runc; root may not be allowed what Podman asks for.
BY_RUNC = {
    "podman": ("--runtime", "runc", "run", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"),
    "docker": ("run", "--runtime", "runc"),
}


@pytest.fixture(scope="module", params=BY_RUNC)
def kind(request: pytest.FixtureRequest) -> str:
    """An engine's name."""
    return str(request.param)


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, kind: str, layer_of_programs: str) -> Engine:
    """The engine, with their image."""
    engine: Engine = request.getfixturevalue(kind)
    engine.call("import", layer_of_programs, IMAGE)
    return engine


@EVERY
def test_a_container(engine: Engine, kind: str, case: Case) -> None:
    """Nothing is left of it."""
    flags = ("--rm", "--network=none", f"--workdir={case.cwd}", f"--user={case.uid}")
    words = (*flags, IMAGE, *case.words)
    before = set(list_sandboxes())
    by_runc = engine.call(*BY_RUNC[kind], *words, check=False)
    done = engine.call("run", *words, check=False)
    assert done.returncode == by_runc.returncode, (by_runc, done)
    assert done.returncode == STATUSES.get(case.name, done.returncode)
    wait_until(lambda: set(list_sandboxes()) <= before)
