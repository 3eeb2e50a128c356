"""Formatter, linter and type checker, and rules of the house that they cannot check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("src", "tests", "tools", "bench")
MODULE_MAX_LINES = 400
GENERATED = ROOT / "src/kata/rpc/pb"


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", *SOURCES],
        ["ruff", "check", "--quiet", *SOURCES],
        ["mypy"],
    ],
    ids=lambda command: "-".join(command[:2]),
)
def test_tools_are_content(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_packages_do_nothing_at_import() -> None:
    assert [str(path) for path in ROOT.glob("src/**/__init__.py") if path.read_bytes()] == []


def test_modules_stay_readable() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for path in ROOT.glob("src/**/*.py")
        if GENERATED not in path.parents
        and (lines := len(path.read_text().splitlines())) > MODULE_MAX_LINES
    }
    assert not long
