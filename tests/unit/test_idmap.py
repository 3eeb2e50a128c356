"""Maps of users: reading them, and the process that makes their namespace."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.base.idmap import map_id, read_maps, wait_for_namespace

MAP = ((0, 100000, 10), (10, 5, 1))


@pytest.mark.parametrize(
    ("inside", "outside"), [(0, 100000), (9, 100009), (10, 5), (11, 11), (65534, 65534)]
)
def test_an_id_of_a_map(inside: int, outside: int) -> None:
    assert map_id(inside, MAP) == outside


@pytest.mark.parametrize(
    ("owner", "maps"),
    [
        (None, ((), ())),
        ({}, ((), ())),
        (
            {
                "uidMappings": [{"containerID": 0, "hostID": 7, "size": 2}],
                "gidMappings": [
                    {"containerID": 0, "hostID": 8, "size": 1},
                    {"containerID": 1, "hostID": 20, "size": 3},
                ],
            },
            (((0, 7, 2),), ((0, 8, 1), (1, 20, 3))),
        ),
    ],
)
def test_maps_of_a_specification(owner: Any, maps: Any) -> None:
    assert read_maps(owner) == maps


@pytest.mark.parametrize("kind", ["user", "pid_for_children"])
def test_a_namespace_that_is_not_made_is_told_at_once(kind: str) -> None:
    # What unshare does where user namespaces are not allowed.
    with subprocess.Popen(["false"]) as process:
        started = time.monotonic()
        with pytest.raises(KataError, match=f"make a {kind} namespace: unshare failed") as caught:
            wait_for_namespace(process.pid, kind)
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert time.monotonic() - started < 5
