"""An agent for each test, and a look at what it leaves behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest.harness import (
    AgentProcess,
    Host,
    cgroup_folders,
    make_rootfs,
    running_agent,
    until,
)


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_rootfs(tmp_path_factory.mktemp("rootfs"))


@pytest.fixture
def runtime() -> str:
    """What starts processes in containers: the agent itself, or crun, which modules ask for."""
    return "native"


@pytest.fixture
def agent(tmp_path: Path, runtime: str) -> Iterator[AgentProcess]:
    with running_agent(tmp_path / "agent.log", runtime) as agent:
        yield agent


@pytest.fixture
def host(agent: AgentProcess, rootfs: Path) -> Iterator[Host]:
    """A connected host; after the test its containers are removed, and nothing may be left."""
    host = Host(agent, rootfs)
    mounts = agent.mounts()
    descriptors = agent.descriptors()
    yield host
    for bundle in list(host.agent.path("run/kata-containers/bundles").glob("[!.]*")):
        host.remove(bundle.name)
    assert host.leftovers() == []
    if not host.mounts_may_stay:
        assert agent.mounts() == mounts
    until(lambda: agent.children() == [], "processes are left")
    # The connection's own, and nothing of the processes that ran.
    until(lambda: agent.descriptors() <= descriptors + 2, f"descriptors: {agent.descriptors()}")
    host.close()
    assert agent.stop() == 0
    assert "Traceback" not in agent.log()


@pytest.fixture(autouse=True)
def _no_cgroups_left() -> Iterator[None]:
    yield
    for folder in cgroup_folders():
        with contextlib.suppress(OSError):
            folder.rmdir()
    assert cgroup_folders() == []
