"""The command line's words, and which machine a container belongs into."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.base.folders import remove_folder
from kata.base.processes import read_start_time
from kata.cli.manual import render_completion, render_manual
from kata.cli.oci.create import check_user
from kata.cli.oci.events import parse_duration
from kata.cli.oci.kill import parse_signal
from kata.cli.oci.placement import find_sandbox
from kata.cli.oci.record import Record
from kata.cli.table import LIST, NUMBER, SWITCH, Flag, UsageError, parse_words
from kata.cli.verbs import GLOBAL_FLAGS, VERBS
from tests.support.netns import Netns

SCAN = os.scandir
FLAGS = (
    Flag(("bundle", "b"), "", default="."),
    Flag(("all", "a"), "", SWITCH),
    Flag(("env", "e"), "", LIST),
    Flag(("count",), "", NUMBER),
)


@pytest.mark.parametrize(
    "words",
    [
        ["--bundle", "x", "-a", "c1"],
        ["-bundle=x", "--all=true", "c1"],
        ["-b", "y", "-b", "x", "--all", "--", "c1"],
    ],
)
def test_words_are_read_as_go_does(words: list[str]) -> None:
    options = parse_words(words, FLAGS)
    assert (options.text("bundle"), options.has("all"), options.words) == ("x", True, ["c1"])


def test_flags_end_at_the_first_word_but_for_operators() -> None:
    words = ["c1", "ls", "-a", "--env", "A=1"]
    options = parse_words(words, FLAGS)
    assert (options.words, options.has("all")) == (words, False)
    options = parse_words(words, FLAGS, mixed=True)
    assert (options.words, options.has("all")) == (["c1", "ls"], True)
    assert options.texts("env") == ["A=1"]
    assert (options.text("bundle"), options.number("count")) == (".", None)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--nope"], "flag provided but not defined: -nope"),
        (["--bundle"], "flag needs an argument: -bundle"),
        (["--all=maybe"], 'invalid boolean value "maybe" for -all'),
        (["--count", "few"], 'invalid value "few" for flag -count'),
    ],
)
def test_bad_words(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_words(words, FLAGS)
    assert str(caught.value) == text


def test_the_table_is_sound() -> None:
    names = [verb.name for verb in VERBS]
    assert len(names) == len(set(names))
    for flags in (GLOBAL_FLAGS, *(verb.flags for verb in VERBS)):
        known = [name for flag in flags for name in flag.names]
        assert len(known) == len(set(known))
    for verb in VERBS:
        __import__(verb.module)


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("SIGKILL", 9), ("hup", 1), ("0", 0), ("64", 64)]
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["FOO", "65", "-1", ""])
def test_signals_that_do_not_exist(text: str) -> None:
    with pytest.raises(KataError, match="unknown signal"):
        parse_signal(text)


def test_durations() -> None:
    assert [parse_duration(text) for text in ("250ms", "5s", "2m", "1h")] == [0.25, 5, 120, 3600]
    for bad in ("0s", "-1s", "5", "s", "1d"):
        with pytest.raises(KataError):
            parse_duration(bad)


def complete(*words: str) -> set[str]:
    """Return what bash offers for the last word."""
    script = f"""{render_completion()}
COMP_WORDS=(kata-runtime "$@"); COMP_CWORD=$#; _kata_runtime; printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    argv = ["bash", "-c", script, "bash", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_verbs_and_flags() -> None:
    assert complete("st") == {"start", "state"}
    assert complete("--log-") == {"--log-format"}
    assert complete("--root", "/x", "exec", "--pid") == {"--pid-file"}
    assert complete("factory", "--j") == {"--json"}
    assert complete("direct-volume", "re") == {"remove", "resize"}
    assert {"get", "set"} <= complete("iptables", "")


def test_the_manual_has_every_verb_and_flag() -> None:
    text = "\n".join(render_manual()).replace("\\-", "-")
    for verb in VERBS:
        assert f".SS {verb.name}\n" in text
        assert all(f"--{flag.name}" in text for flag in verb.flags)
    if shutil.which("groff"):
        argv = ["groff", "-man", "-Tutf8", "-ww", "-z"]
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
        assert done.stderr == ""


def test_only_root_makes_containers(monkeypatch: pytest.MonkeyPatch) -> None:
    check_user("c1")
    monkeypatch.setattr(os, "geteuid", lambda: 7)
    with pytest.raises(KataError, match="create c1: only root can, this is user 7"):
        check_user("c1")


@dataclass
class Host:
    """Two containers' stand-ins, each in a network namespace."""

    netns: list[Netns] = field(default_factory=list)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def add(self, name: str, sandbox: str) -> int:
        made = Netns()
        argv = ["nsenter", f"--net={made.path}", "--", "sleep", "1000"]
        process = subprocess.Popen(argv)
        while os.readlink(f"/proc/{process.pid}/exe").endswith("nsenter"):
            pass
        self.netns.append(made)
        self.processes.append(process)
        self.records.append(
            Record(
                id=name,
                folder="/nonexistent",
                bundle="",
                rootfs="",
                sandbox=sandbox,
                created="",
                owner="",
                annotations={},
                cgroups=[],
                pid=process.pid,
                start_time=read_start_time(process.pid) or 0,
            )
        )
        return process.pid


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    made.add("infra", "infra")
    made.add("other", "other")
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    for netns in made.netns:
        netns.delete()


NEW = {"pid": "", "network": "", "ipc": "", "uts": "", "mount": ""}


def test_a_lone_container_has_a_machine_of_its_own(host: Host) -> None:
    assert find_sandbox("c1", {}, NEW, host.records) == ""
    own = Netns()
    assert find_sandbox("c1", {}, {**NEW, "network": own.path}, host.records) == ""
    own.delete()


def test_namespaces_of_a_stand_in_name_its_machine(host: Host) -> None:
    pid = host.records[0].pid
    joined = {kind: f"/proc/{pid}/ns/{kind}" for kind in ("ipc", "uts")}
    network = {"network": f"/proc/{pid}/ns/net"}
    assert find_sandbox("c1", {}, {**NEW, **joined, **network}, host.records) == "infra"
    # The same network by another path.
    bound = {"network": host.netns[0].path}
    assert find_sandbox("c1", {}, {**NEW, **joined, **bound}, host.records) == "infra"
    assert find_sandbox("c1", {}, {**NEW, **bound}, host.records) == "infra"


def test_a_container_that_has_no_stand_in_yet_owns_no_network(host: Host) -> None:
    """One that is being created beside this one, or whose creation was killed."""
    own = Netns()
    records = [
        Record(**{**vars(host.records[0]), "id": "young", "pid": 0, "start_time": 0}),
        *host.records,
    ]
    assert find_sandbox("c1", {}, {**NEW, "network": own.path}, records) == ""
    assert find_sandbox("c1", {}, {**NEW, "network": host.netns[1].path}, records) == "other"
    own.delete()


def test_a_folder_is_removed_beside_who_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exec that fails takes its socket away, another puts one there."""
    folder = tmp_path / "c1"
    folder.mkdir()
    for name in ("state.json", "exec-1"):
        (folder / name).touch()
    listed = 0

    def scan(path: str) -> Iterator[os.DirEntry[str]]:
        nonlocal listed
        entries = list(SCAN(path))
        if listed == 0:
            (folder / "exec-1").unlink()
            (folder / "exec-2").touch()
        listed += 1
        return iter(entries)

    monkeypatch.setattr(os, "scandir", scan)
    remove_folder(str(folder))
    assert not folder.exists()
    assert listed == 2
    remove_folder(str(folder))


def test_a_folder_with_what_is_nobodys_to_remove_is_told(tmp_path: Path) -> None:
    (tmp_path / "c1/rootfs/file").mkdir(parents=True)
    with pytest.raises(OSError, match="c1/rootfs"):
        remove_folder(str(tmp_path / "c1"))
    assert (tmp_path / "c1/rootfs/file").exists()


def test_annotations_name_a_sandbox(host: Host) -> None:
    told = {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.sandbox-id": "other",
    }
    assert find_sandbox("c1", told, NEW, host.records) == "other"


@pytest.mark.parametrize(
    ("first", "second", "text"),
    [
        ({"pid": 0}, {}, "but not the network"),
        ({"network": 0, "pid": 1}, {}, "namespaces of 2 machines: infra, other"),
        ({}, {"ipc": "/proc/1/ns/ipc"}, "ipc namespace /proc/1/ns/ipc: a virtual machine cannot"),
        ({}, {"user": "/run/userns"}, "user namespace /run/userns: a virtual machine cannot"),
    ],
)
def test_namespaces_that_cannot_be_joined(
    host: Host, first: dict[str, int], second: dict[str, str], text: str
) -> None:
    files = {"network": "net"}
    joined = {
        kind: f"/proc/{host.records[at].pid}/ns/{files.get(kind, kind)}"
        for kind, at in first.items()
    }
    with pytest.raises(KataError) as caught:
        find_sandbox("c1", {}, {**NEW, **joined, **second}, host.records)
    assert text in str(caught.value)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_one_that_has_ended_has_no_machine(host: Host) -> None:
    pid = host.records[0].pid
    host.processes[0].kill()
    host.processes[0].wait()
    with pytest.raises(KataError, match="cannot join"):
        find_sandbox("c1", {}, {**NEW, "pid": f"/proc/{pid}/ns/pid"}, host.records)
