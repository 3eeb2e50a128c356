"""The steps of a start: noted, found again, drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kata.base import trace
from kata.base.errors import Code, KataError
from kata.base.trace import Step, Trace, read_trace
from kata.cli.timeline import render_timeline


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("alpha", "alpine", "beta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / trace.NAME).write_text(
            f'{{"step": "start {name}", "began": 1.5, "ended": 2.0}}\n'
        )
    (tmp_path / "factory.log").touch()
    return tmp_path


def test_steps_are_kept_in_the_order_of_their_beginning(tmp_path: Path) -> None:
    noted = Trace()
    with noted.step("before"):
        pass
    (tmp_path / "c1").mkdir()
    noted.keep_in(str(tmp_path / "c1"))
    with noted.step("outer"), noted.step("inner"):
        pass
    with pytest.raises(ZeroDivisionError), noted.step("failed"):
        raise ZeroDivisionError
    steps = read_trace("c1", str(tmp_path))
    assert [step.step for step in steps] == ["before", "outer", "inner", "failed"]
    assert all(step.began <= step.ended for step in steps)


def test_a_trace_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_MAX_BYTES", 300)
    noted = Trace()
    noted.keep_in(str(tmp_path))
    for _ in range(100):
        with noted.step("again"):
            pass
    assert (tmp_path / trace.NAME).stat().st_size < 400


def test_a_folder_that_is_gone_is_no_error(tmp_path: Path) -> None:
    noted = Trace()
    noted.keep_in(str(tmp_path / "gone"))
    with noted.step("late"):
        pass


@pytest.mark.parametrize("given", ["beta", "b"])
def test_the_start_of_an_id_will_do(root: Path, given: str) -> None:
    assert [step.step for step in read_trace(given, str(root))] == ["start beta"]


@pytest.mark.parametrize("given", ["gamma", "", "factory.log", "../beta/x"])
def test_no_such_sandbox(root: Path, given: str) -> None:
    with pytest.raises(KataError, match="no such sandbox runs") as caught:
        read_trace(given, str(root))
    assert caught.value.code == Code.NOT_FOUND


def test_start_of_several_ids(root: Path) -> None:
    with pytest.raises(KataError, match="find sandbox al: alpha, alpine begin with it"):
        read_trace("al", str(root))


def test_timeline() -> None:
    steps = [Step("all", 1.0, 2.0), Step("half", 1.0, 1.5), Step("rest", 1.5, 2.0)]
    assert render_timeline([*steps, Step("short", 1.9999, 2.0)], 39) == [
        "       0 ms         1000 ms",
        "all    ████████████████████  1000 ms",
        "half   ██████████             500 ms",
        "rest             ██████████   500 ms",
        "short                     ▏     0 ms",
    ]


def test_a_later_start_has_a_scale_of_its_own() -> None:
    lines = render_timeline([Step("first", 1.0, 2.0), Step("again", 9.0, 9.5)], 39)
    assert [line.split()[0] for line in lines if line] == ["0", "first", "0", "again"]
    assert "500 ms" in lines[3]


def test_no_steps() -> None:
    assert render_timeline([], 80) == []


def test_command_line_for_a_sandbox_that_is_not_there() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kata.cli.main", "trace", "not-there"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "kata-runtime: find sandbox not-there: no such sandbox runs\n"
