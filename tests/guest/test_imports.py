"""What the agent loads at its start: under emulation a millisecond of import is twenty."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.guest.harness import SOURCES

# The standard library's heavy modules, and those that only some requests need.
UNWANTED = (
    "argparse",
    "asyncio",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "re",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "string",
    "subprocess",
    "tempfile",
    "traceback",
    "typing",
)
SCRIPT = """
import sys
sys.path[:0] = {path!r}
import kata.guest.init
early = set(sys.modules)
import kata.guest.loopback, kata.guest.sandbox, kata.guest.service, kata.guest.crun
print(*sorted(early))
print(*sorted(sys.modules))
"""


def loaded() -> tuple[set[str], set[str]]:
    site = [path for path in sys.path if "site-packages" in path]
    script = SCRIPT.format(path=[str(SOURCES), *site])
    done = subprocess.run(
        ["/usr/bin/python3", "-ISE", "-c", script], capture_output=True, text=True, check=True
    )
    early, everything = done.stdout.splitlines()
    return set(early.split()), set(everything.split())


def test_heavy_modules_stay_out() -> None:
    _, everything = loaded()
    assert sorted(everything & set(UNWANTED)) == []


def test_first_answer_needs_little() -> None:
    early, _ = loaded()
    ours = {name for name in early if name.startswith("kata.guest.")}
    assert not ours & {"kata.guest.service", "kata.guest.sandbox", "kata.guest.crun"}
    assert "kata.rpc.pb.agent_pb2" not in early


def test_guest_is_self_contained() -> None:
    _, everything = loaded()
    packages = {name.split(".")[1] for name in everything if name.startswith("kata.")}
    assert packages == {"base", "rpc", "oci", "guest"}


def test_sources_are_small() -> None:
    for path in Path(SOURCES, "kata", "guest").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
