"""Kernel settings of a pod's network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kata.base.errors import Code, KataError
from kata.base.sysctls import find_path
from kata.guest import sysctl
from tests.support.netns import Netns, making_namespaces

if TYPE_CHECKING:
    from kata.oci.render import Json


@pytest.fixture
def netns() -> Iterator[Netns]:
    with making_namespaces() as make:
        yield make()


def spec(**settings: str) -> dict[str, Json]:
    names: dict[str, Json] = {name.replace("__", "."): text for name, text in settings.items()}
    return {"linux": {"sysctl": names}}


def read(netns: Netns, name: str) -> str:
    def look() -> str:
        with open(find_path(name)) as file:
            return file.read().strip()

    return netns.run(look)


def test_settings_of_the_network_are_set_and_taken_out(netns: Netns) -> None:
    wanted = spec(
        net__core__somaxconn="333",
        net__ipv4__ip_local_port_range="1024 2000",
        kernel__shm_rmid_forced="1",
    )
    netns.run(lambda: sysctl.apply_network(wanted))
    assert wanted == spec(kernel__shm_rmid_forced="1")
    assert read(netns, "net.core.somaxconn") == "333"
    assert read(netns, "net.ipv4.ip_local_port_range").split() == ["1024", "2000"]


def test_slashes_separate_as_well(netns: Netns) -> None:
    wanted: dict[str, Json] = {"linux": {"sysctl": {"net/ipv4/ip_forward": "1"}}}
    netns.run(lambda: sysctl.apply_network(wanted))
    assert wanted == spec()
    assert read(netns, "net.ipv4.ip_forward") == "1"


@pytest.mark.parametrize(
    ("name", "text"), [("net.core.no_such", "1"), ("net.core.somaxconn", "many")]
)
def test_a_setting_that_cannot_be_is_named(netns: Netns, name: str, text: str) -> None:
    wanted: dict[str, Json] = {"linux": {"sysctl": {name: text}}}
    with pytest.raises(KataError, match=f"set sysctl {name}: ") as caught:
        netns.run(lambda: sysctl.apply_network(wanted))
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize("empty", [{}, {"linux": {}}, {"linux": {"sysctl": None}}, {"linux": None}])
def test_nothing_is_asked(empty: dict[str, Json]) -> None:
    sysctl.apply_network(empty)


@pytest.mark.parametrize("name", ["vm.swappiness", "kernel.pid_max", "net.core.somaxconn"])
def test_setting_of_the_whole_guest_is_refused(name: str) -> None:
    with pytest.raises(KataError, match=f"set sysctl {name}: it is not one of") as caught:
        sysctl.apply({name: "1"}, ["ipc", "uts", "mount"])
    assert caught.value.code == Code.INVALID_ARGUMENT
