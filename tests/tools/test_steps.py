"""When a set-up step is done again, and what it leaves when it fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tools import steps
from tools.launchers import LAUNCHER, write_launchers


def test_a_key_follows_contents_names_and_words(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "a.py"
    file.parent.mkdir()
    file.write_text("1")
    keys = {steps.content_key([str(tmp_path)]), steps.content_key([str(tmp_path)], "word")}
    file.write_text("2")
    keys.add(steps.content_key([str(tmp_path)]))
    file.rename(file.with_name("b.py"))
    keys.add(steps.content_key([str(tmp_path)]))
    assert len(keys) == 4


def test_byte_code_does_not_change_a_key(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    key = steps.content_key([str(tmp_path)])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.cpython-311.pyc").write_text("x")
    assert steps.content_key([str(tmp_path)]) == key


def test_a_step_is_done_for_its_inputs_only(tmp_path: Path) -> None:
    stamp = str(tmp_path / "stamp")
    assert not steps.is_done(stamp, "a")
    steps.mark_done(stamp, "a")
    assert steps.is_done(stamp, "a")
    assert not steps.is_done(stamp, "b")


def test_a_failed_command_is_named_with_its_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(steps.StepError, match=r"^sh -c .*: exit code 3"):
        steps.run(["sh", "-c", "echo why; exit 3"])
    assert capsys.readouterr().out == "why\n"


def test_an_unchanged_file_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    steps.write_file(str(path), "text", 0o755)
    before = path.stat()
    steps.write_file(str(path), "text", 0o755)
    assert path.stat() == before
    assert before.st_mode & 0o777 == 0o755


def test_a_launcher_runs_the_module_and_gives_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "kata" / "image").mkdir(parents=True)
    (tmp_path / "kata/image/main.py").write_text("def main():\n    print('hello')\n    return 5\n")
    (launcher,) = write_launchers(str(tmp_path / "bin"), [str(tmp_path)])
    assert os.path.basename(launcher) == "kata-image"
    assert "-IS\n" in LAUNCHER
    done = subprocess.run([launcher], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("hello\n", 5)
