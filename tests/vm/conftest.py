"""One virtual machine with its agent, without containerd, for tests of what the driver can do."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import pytest

from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.config.load import load_config
from kata.host.sandbox.sandbox import Sandbox
from tests.support.leaks import assert_nothing_new, take_inventory
from tools.setup import CONFIGURATION


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    """A booted sandbox with the modules of the devices that tests plug in."""
    with booted(f"vm-{os.getpid()}", CONFIGURATION) as made:
        yield made


@contextlib.contextmanager
def booted(sandbox_id: str, configuration: str) -> Iterator[Sandbox]:
    """Boot a sandbox and end it; nothing of it may be left."""
    before = take_inventory()
    config = load_config(configuration, {})
    agent = dataclasses.replace(config.agent, kernel_modules=("virtio_blk", "virtio_net"))
    config = dataclasses.replace(config, agent=agent)
    lines: list[bytes] = []
    made = Sandbox(sandbox_id, config, Logger(lines.append), Spawner())
    try:
        made.boot(os.getpid(), "vm-test")
        made.wait_ready()
        yield made
    finally:
        made.stop(graceful=True)
    assert not [line for line in lines if b"level=error" in line]
    assert_nothing_new(before)
