"""States, undo stack, record on disk, and who may clean up what."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.base.processes import read_start_time
from kata.host.sandbox import record
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.cleanup import clean_up, is_orphaned
from kata.host.sandbox.process import Process
from kata.host.sandbox.record import ProcessEntry, RecordFile, load_record
from kata.host.sandbox.states import TRANSITIONS, State, check_transition
from kata.host.sandbox.undo import UndoStack
from kata.host.share import layout


@pytest.fixture(autouse=True)
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "ROOT", f"{tmp_path}/run")
    monkeypatch.setattr(layout, "ROOT", f"{tmp_path}/share")


@pytest.mark.parametrize(("current", "wanted"), list(itertools.product(State, State)))
def test_transitions(current: State, wanted: State) -> None:
    if wanted in TRANSITIONS[current]:
        check_transition("pause", "container c1", current, wanted)
    else:
        with pytest.raises(KataError, match=f"pause container c1: it is {current.value}") as caught:
            check_transition("pause", "container c1", current, wanted)
        assert caught.value.code == Code.FAILED_PRECONDITION


def test_every_state_but_the_last_can_stop() -> None:
    assert set(TRANSITIONS) == set(State)
    assert [state for state in State if State.STOPPED not in TRANSITIONS[state]] == [State.STOPPED]


def test_undo_runs_all_steps_backwards_once() -> None:
    done: list[str] = []
    undo = UndoStack()

    def fail() -> None:
        done.append("b")
        raise OSError("broken")

    undo.push("a", lambda: done.append("a"))
    undo.push("b", fail)
    undo.push("c", lambda: done.append("c"))
    assert undo.run() == ["b: broken"]
    assert done == ["c", "b", "a"]
    assert undo.run() == []


def test_undo_takes_steps_while_it_runs() -> None:
    done: list[str] = []
    undo = UndoStack()
    undo.push("late", lambda: undo.push("later", lambda: done.append("later")))
    assert undo.run() == []
    assert done == ["later"]


def test_record_round_trip() -> None:
    file = RecordFile("s1")
    file.create("owner")
    file.add_process("qemu", 12, 34)
    found = load_record("s1")
    assert found is not None
    assert (found.owner, found.processes) == ("owner", [ProcessEntry("qemu", 12, 34)])
    file.remove()
    assert load_record("s1") is None
    file.remove()


def test_second_sandbox_of_one_id_is_refused() -> None:
    RecordFile("s1").create("one")
    with pytest.raises(KataError) as caught:
        RecordFile("s1").create("two")
    assert caught.value.code == Code.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('{"version": 99, "processes": []}', Code.FAILED_PRECONDITION),
        ('{"version": 1', Code.DATA_LOSS),
        ("", Code.DATA_LOSS),
        ("[]", Code.DATA_LOSS),
        ('{"version": 1, "owner": "", "processes": [{"role": "qemu"}]}', Code.DATA_LOSS),
        ('{"version": 1, "owner": "", "processes": 3}', Code.DATA_LOSS),
    ],
)
def test_record_that_cannot_be_read(text: str, code: int) -> None:
    os.makedirs(record.state_folder("s1"))
    path = f"{record.state_folder('s1')}/record.json"
    Path(path).write_text(text)
    with pytest.raises(KataError, match=path) as caught:
        load_record("s1")
    assert caught.value.code == code
    assert len(clean_up("s1")) == 1
    assert os.path.exists(path)  # for somebody who can read it


def start_sandbox(owner: str) -> subprocess.Popen[bytes]:
    """Make what a sandbox leaves: a record, a shared folder, a process."""
    child = subprocess.Popen(["/bin/sleep", "1000"])
    file = RecordFile("s1")
    file.create(owner)
    file.add_process("shim", child.pid, read_start_time(child.pid) or 0)
    os.makedirs(layout.shared_paths("s1").shared)
    return child


def test_clean_up_ends_processes_and_removes_folders() -> None:
    child = start_sandbox("owner")
    assert not is_orphaned("s1")
    assert clean_up("s1", "owner") == []
    assert child.wait(5) == -9
    assert not os.path.exists(record.state_folder("s1"))
    assert not os.path.exists(layout.shared_paths("s1").base)
    assert clean_up("s1", "owner") == []


def test_clean_up_leaves_another_owners_sandbox_alone() -> None:
    child = start_sandbox("owner")
    assert clean_up("s1", "somebody else") == []
    assert child.poll() is None
    assert os.path.exists(layout.shared_paths("s1").shared)
    clean_up("s1")
    child.wait(5)


def test_clean_up_spares_a_process_that_got_the_pid_later() -> None:
    child = subprocess.Popen(["/bin/sleep", "1000"])
    file = RecordFile("s1")
    file.create("owner")
    file.add_process("shim", child.pid, (read_start_time(child.pid) or 0) - 1)
    assert is_orphaned("s1")
    assert clean_up("s1", "owner") == []
    assert child.poll() is None
    child.kill()
    child.wait(5)


def test_draft_of_a_killed_shim_is_cleaned_up() -> None:
    child = subprocess.Popen(["/bin/true"])
    child.wait(5)
    draft = f"{os.path.dirname(record.state_folder('s1'))}/.{child.pid}.s1"
    os.makedirs(draft)
    others = f"{os.path.dirname(record.state_folder('s1'))}/.{child.pid}.s1.s1"
    os.makedirs(others)
    assert clean_up("s1", "owner") == []
    assert not os.path.exists(draft)
    assert os.path.exists(others)


def test_folder_without_a_record_is_cleaned_up() -> None:
    os.makedirs(record.state_folder("s1"))
    assert is_orphaned("s1")
    assert clean_up("s1", "owner") == []
    assert not os.path.exists(record.state_folder("s1"))


class SlowIo:
    """Streams that note what is asked of them."""

    terminal = False
    has_stand_in = False

    def __init__(self) -> None:
        self.asked: list[str] = []

    def open(self) -> None:
        self.asked.append("open")

    def begin(self, agent: Agent, container_id: str, exec_id: str) -> None:
        self.asked.append("begin")

    def close_stdin(self) -> None:
        self.asked.append("close_stdin")

    def drain(self) -> None:
        self.asked.append("drain")

    def end(self, status: int) -> None:
        self.asked.append(f"end {status}")

    def close(self) -> None:
        self.asked.append("close")


@pytest.mark.parametrize("fails", [False, True])
def test_an_end_before_the_answer_to_the_start_loses_no_output(fails: bool) -> None:
    io = SlowIo()
    process = Process("c1", "", io, Logger(len))
    ended = threading.Event()

    def end() -> None:
        ended.set()
        process.drain()

    ending = threading.Thread(target=end)

    def run() -> None:
        ending.start()
        ended.wait()
        time.sleep(0.05)
        if fails:
            raise KataError("start c1", Code.INTERNAL)

    with pytest.raises(KataError) if fails else contextlib.nullcontext():
        process.start(Agent.__new__(Agent), run)
    ending.join()
    assert io.asked == (["end 137", "close", "drain"] if fails else ["begin", "drain"])


def test_what_was_never_started_has_no_output_to_wait_for() -> None:
    io = SlowIo()
    process = Process("c1", "", io, Logger(len))
    process.finish(137)
    process.drain()
    assert io.asked == ["end 137", "drain"]


def test_an_end_is_known_when_the_output_was_passed_on() -> None:
    """Clients such as ctr close their side of the streams when Wait is answered."""

    class EndedAgent(Agent):
        def __init__(self) -> None:
            pass

        def wait_process(self, container_id: str, exec_id: str) -> int:
            return 7

    states: list[State] = []
    told = threading.Event()
    io = SlowIo()
    process = Process("c1", "", io, Logger(len))
    io.drain = lambda: states.append(process.state)  # type: ignore[method-assign]
    process.start(EndedAgent(), lambda: None)
    before_ns = time.time_ns()
    process.follow(EndedAgent(), lambda _: told.set())
    assert told.wait(5)
    assert states == [State.RUNNING]
    assert (process.state, process.exit_status) == (State.STOPPED, 7)
    assert before_ns <= process.exited_at_ns <= time.time_ns()
