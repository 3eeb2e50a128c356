"""Installing and removing, in a folder that stands for the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import install
from tools.steps import StepError


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    paths = {
        "PREFIX": "opt/kata",
        "VENV": "opt/kata/venv",
        "MANIFEST": "opt/kata/manifest",
        "PROGRAMS": "bin",
        "SHARE": "share",
        "CACHE": "cache",
        "TEMPLATES": "templates",
        "UNITS": "systemd",
        "MANUAL": "man/kata-runtime.8",
        "COMPLETION": "completions/kata-runtime",
        "CONFIGURATION": "defaults/kata/configuration.toml",
    }
    for name, path in paths.items():
        monkeypatch.setattr(install, name, str(tmp_path / path))
    monkeypatch.setattr(install, "stop_demo", lambda: None)
    return tmp_path


def fill(machine: Path) -> None:
    for name in ("bin/kata-image", "bin/other", "opt/kata/venv/x", "share/x", "defaults/other"):
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).touch()


def test_removing_takes_back_what_was_put_and_nothing_else(machine: Path) -> None:
    install.write_manifest()
    fill(machine)
    install.remove()
    left = sorted(str(path.relative_to(machine)) for path in machine.rglob("*") if path.is_file())
    assert left == ["bin/other", "defaults/other"]
    assert not (machine / "opt/kata").exists()


def test_removing_twice_is_no_error(machine: Path) -> None:
    install.write_manifest()
    install.remove()
    install.remove()


def test_another_installation_is_not_overwritten(machine: Path) -> None:
    fill(machine)
    with pytest.raises(StepError, match=r"bin/kata-image, .*share belong to another installation"):
        install.write_manifest()
    install.remove()
    assert (machine / "bin/kata-image").exists()
