"""Programs that cannot be executed: what runc finds in ``create`` is found there, in its words."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.support.ids import make_id
from tests.support.programs import CASES, Case, add_programs, find_reason
from tests.support.runtime import Bundle, Runtime, unpack_busybox, wait_until

pytestmark = pytest.mark.e2e

EVERY = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))


class Side:
    """A runtime that is asked, and a container of it in which programs are executed."""

    def __init__(self, argv: Sequence[str], folder: Path, root: Path, pod: str = "") -> None:
        self._argv = argv
        self._folder = folder
        self._root = root
        self._pod = pod
        self._numbers = itertools.count()
        self._box = make_id("box")
        assert self._create(self._bundle().run("sleep", "100000"), self._box) == (0, "")
        self._call("start", self._box)

    def create(self, case: Case) -> tuple[int, str]:
        """Return the status of the creation, and what it or the container said."""
        bundle = self._bundle()
        process = bundle.spec["process"]
        process["user"] = {"uid": case.uid, "gid": case.uid}
        if case.uid:
            process["capabilities"] = {}
        name = make_id(case.name)
        status, text = self._create(bundle.run(*case.words, cwd=case.cwd), name)
        if not status:
            self._call("start", name)
            wait_until(lambda: self._state(name) == "stopped")
            self._call("delete", name)
            text = (bundle.folder / "output").read_text()
        return status, text

    def execute(self, case: Case) -> tuple[int, str]:
        """Return the status of an exec, and what was said."""
        words = ("--cwd", case.cwd, "--user", f"{case.uid}:{case.uid}", self._box, *case.words)
        done = self._call("exec", *words, check=False)
        return done.returncode, find_reason(done.stdout + done.stderr)

    def close(self) -> None:
        self._call("delete", "--force", self._box)

    def _create(self, bundle: Bundle, name: str) -> tuple[int, str]:
        log = bundle.folder / "log.json"
        words = ("--log", str(log), "--log-format", "json")
        with open(bundle.folder / "output", "wb") as output:
            argv = [*self._argv, *words, "create", "-b", str(bundle.folder), name]
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
            )
        lines = log.read_text().splitlines() if log.exists() else []
        messages = [json.loads(line) for line in lines]
        errors = [found["msg"] for found in messages if found["level"] == "error"]
        return done.returncode, find_reason("".join(errors))

    def _bundle(self) -> Bundle:
        bundle = Bundle(self._folder / str(next(self._numbers)), self._root)
        return bundle.join(self._pod) if self._pod else bundle

    def _state(self, name: str) -> str:
        return str(json.loads(self._call("state", name).stdout)["status"])

    def _call(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._argv, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=60,
        )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system that has them."""
    root = tmp_path_factory.mktemp("programs")
    root.chmod(0o755)
    unpack_busybox(root)
    add_programs(root)
    return root


@pytest.fixture(scope="module")
def runc(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    # Its own folder is shared with whoever else uses it.
    with tempfile.TemporaryDirectory(prefix="runc-") as state:
        side = Side(["runc", "--root", state], tmp_path_factory.mktemp("runc"), programs)
        yield side
        side.close()


@pytest.fixture(scope="module")
def kata(
    shared_runtime: Runtime, programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Side]:
    """All of its containers are one pod's, so that one machine does."""
    folder = tmp_path_factory.mktemp("kata")
    pod = make_id("programs")
    shared_runtime.start_pod(Bundle(folder / "pod", programs), pod)
    side = Side(shared_runtime.argv(), folder, programs, pod)
    yield side
    side.close()
    shared_runtime.call("delete", "--force", pod)


@EVERY
def test_a_container(runc: Side, kata: Side, case: Case) -> None:
    expected = runc.create(case)
    assert (expected[0] == 0) == case.created
    assert kata.create(case) == expected


@EVERY
def test_an_exec(runc: Side, kata: Side, case: Case) -> None:
    status, text = runc.execute(case)
    # runc names two calls that look at the same thing.
    assert kata.execute(case) == (status, re.sub(r"^eaccess ", "exec ", text))


def test_what_cannot_be_created_leaves_no_machine(
    runtime: Runtime, programs: Path, tmp_path: Path, name: str
) -> None:
    """The fixture sees what is left of it."""
    bundle = Bundle(tmp_path / "bundle", programs).run("/etc/passwd")
    done = runtime.call("create", "-b", str(bundle.folder), name, check=False)
    assert done.returncode == 1
    assert find_reason(done.stderr) == 'exec: "/etc/passwd": permission denied'
    assert name not in runtime.list_names()
