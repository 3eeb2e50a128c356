"""Which Python modules are taken along."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kata.image import freeze


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "kata/__init__.py": "",
        "kata/a.py": (
            "from typing import TYPE_CHECKING\n"
            "from . import b\n"
            "import lib.one\n"
            "if TYPE_CHECKING:\n    import lib.never\n"
            "def f():\n    if True:\n        from kata.c import name\n"
        ),
        "kata/b.py": "",
        "kata/c.py": "name = 1\n",
        "typing.py": "TYPE_CHECKING = False\n",
        "lib/__init__.py": "",
        "lib/one.py": "try:\n    import lib.two\nexcept ImportError:\n    import lib.gone\n"
        "def f():\n    import lib.lazy\n",
        "lib/two.py": "'doc'\nassert True\n",
        "lib/lazy.py": "",
        "lib/never.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "root"


def run(root: Path, output: Path, exclude: list[str] | None = None) -> freeze.Answer:
    request: freeze.Request = {
        "roots": [str(root)],
        "start": ["kata.a"],
        "eager": ["kata"],
        "exclude": exclude or [],
        "output": str(output),
    }
    done = subprocess.run(
        [sys.executable, "-S", freeze.__file__],
        input=json.dumps(request).encode(),
        capture_output=True,
        check=True,
    )
    answer: freeze.Answer = json.loads(done.stdout)
    return answer


def test_imports_are_followed_as_far_as_they_run(root: Path, tmp_path: Path) -> None:
    answer = run(root, tmp_path / "out")
    assert answer["modules"] == [
        "kata", "kata.a", "kata.b", "kata.c", "lib", "lib.one", "lib.two", "typing",
    ]  # fmt: skip
    assert answer["missing"] == {"lib.gone": "lib.one"}


def test_exclusion_keeps_out_what_only_it_imports(root: Path, tmp_path: Path) -> None:
    assert "lib.two" not in run(root, tmp_path / "out", ["lib.one"])["modules"]


def test_the_same_bytes_every_time(root: Path, tmp_path: Path) -> None:
    for name in ("x", "y"):
        run(root, tmp_path / name)
    for path in (tmp_path / "x").rglob("*.pyc"):
        assert path.read_bytes() == (tmp_path / "y" / path.relative_to(tmp_path / "x")).read_bytes()


def test_modules_run_without_their_sources(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "out")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'out')!r}); import lib.one, lib.two as m; "
    )
    code += "print(m.__doc__, m.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", str(tmp_path / "out/lib/two.pyc")]
