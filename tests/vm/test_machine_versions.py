"""QEMU 10 and later: devices are plugged in and out as with Debian 12's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kata.host.sandbox.sandbox import Sandbox
from tests.support.configuration import write_configuration
from tests.support.machine_versions import MACHINES
from tests.vm.conftest import booted
from tests.vm.test_machine import (
    tap,
    test_disk_is_plugged_in_and_out,
    test_machine_is_paused_and_resumed,
    test_network_card_is_plugged_in_and_out,
)

__all__ = [
    "tap",
    "test_disk_is_plugged_in_and_out",
    "test_machine_is_paused_and_resumed",
    "test_network_card_is_plugged_in_and_out",
]

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module", params=[name for name in MACHINES if name.startswith("qemu")])
def sandbox(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    """A booted sandbox in another QEMU than the system's."""
    path = tmp_path_factory.mktemp("machine") / "configuration.toml"
    configuration = write_configuration(path, **MACHINES[request.param]())
    with booted(f"vm-{request.param}", configuration) as made:
        yield made
