"""Logs of a sandbox's parts, as one."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.base.errors import KataError
from kata.cli.logs import collect


def stamp(second: int, text: str) -> str:
    return f'time="2026-01-01T00:00:{second:02}.000Z" level=info msg="{text}"\n'


@pytest.fixture
def roots(tmp_path: Path) -> tuple[str, str]:
    sandbox, oci = tmp_path / "run" / "s1", tmp_path / "oci" / "s1"
    sandbox.mkdir(parents=True)
    oci.mkdir(parents=True)
    (sandbox / "console.log").write_text("kernel speaks\r\n")
    (sandbox / "agent.log").write_text(stamp(2, "agent") + "  more of it\n" + stamp(9, "late"))
    (oci / "log").write_text(stamp(1, "shim") + stamp(5, "again"))
    factory = stamp(3, "built for s1") + stamp(4, "s12")
    (tmp_path / "run" / "factory.log").write_text(factory)
    return str(tmp_path / "run"), str(tmp_path / "oci")


def test_lines_are_merged_in_the_order_of_time(roots: tuple[str, str]) -> None:
    lines = collect("s1", *roots)
    sources = [line.source for line in lines]
    assert sources == ["console", "shim", "agent", "agent", "factory", "shim", "agent"]
    assert [line.text for line in lines][0::3] == [
        "kernel speaks",
        "  more of it",
        stamp(9, "late").strip(),
    ]


def test_the_shims_log_outlives_the_machine(roots: tuple[str, str]) -> None:
    for file in Path(roots[0], "s1").iterdir():
        file.unlink()
    Path(roots[0], "s1").rmdir()
    assert [line.source for line in collect("s1", *roots)] == ["shim", "factory", "shim"]


def test_a_sandbox_that_is_not_there(roots: tuple[str, str]) -> None:
    with pytest.raises(KataError, match="find sandbox nope: no such sandbox runs"):
        collect("nope", *roots)
