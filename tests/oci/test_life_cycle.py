"""A container's life by the OCI verbs: states, exit statuses, what is refused in which state."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.oci.conftest import BundleMaker
from tests.support.ids import make_id
from tests.support.runtime import (
    Bundle,
    Runtime,
    Supervised,
    is_alive,
    read_file,
    wait_until,
)

pytestmark = pytest.mark.e2e

TRAP = 'trap "echo got term; exit 3" TERM; echo up; while :; do sleep 0.1; done'


def test_create_start_kill_delete(runtime: Runtime, bundle: Bundle, name: str) -> None:
    process = Supervised(runtime, bundle.run("sh", "-c", TRAP), name)
    state = runtime.state(name)
    assert (state["status"], state["id"], state["bundle"]) == ("created", name, str(bundle.folder))
    assert state["ociVersion"] == "1.2.0"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", state["created"])
    assert state["pid"] == int((bundle.folder / f"{name}.pid").read_text())
    assert is_alive(state["pid"])
    runtime.call("start", name)
    assert runtime.status(name) == "running"
    refused = runtime.call("delete", name, check=False)
    assert refused.returncode == 1
    assert f"cannot delete container {name} that is not stopped: running" in refused.stderr
    assert process.process.stdout is not None
    assert process.process.stdout.readline() == "up\n"
    runtime.call("kill", name)
    assert process.finish() == ("got term", 3)
    assert runtime.state(name)["pid"] == 0
    assert runtime.status(name) == "stopped"
    refused = runtime.call("kill", name, check=False)
    assert (refused.returncode, "container not running" in refused.stderr) == (1, True)
    runtime.call("kill", "--all", name, "KILL")
    runtime.call("delete", name)
    assert runtime.list_names().count(name) == 0
    gone = runtime.call("state", name, check=False)
    assert (gone.returncode, "container does not exist" in gone.stderr) == (1, True)


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("signal", ["KILL", "9", "SIGKILL"])
def test_a_signal_ends_a_created_or_running_process(
    runtime: Runtime, bundle: Bundle, name: str, signal: str, started: bool
) -> None:
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    if started:
        runtime.call("start", name)
    runtime.call("kill", name, signal)
    assert process.finish() == ("", 137)
    runtime.call("delete", name)


def test_run_returns_the_exit_status_and_leaves_nothing(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    bundle.run("sh", "-c", "cat; echo err >&2; exit 42")
    done = runtime.call("run", "-b", str(bundle.folder), name, check=False, input="given")
    assert (done.returncode, done.stdout, done.stderr) == (42, "given", "err\n")
    assert name not in runtime.list_names()


def test_run_keeps_and_detaches(runtime: Runtime, bundle: Bundle, name: str) -> None:
    bundle.run("true")
    runtime.call("run", "--keep", "-b", str(bundle.folder), name)
    assert runtime.status(name) == "stopped"
    runtime.call("delete", name)
    pid_file = bundle.folder / "pid"
    bundle.run("sleep", "1000")
    runtime.call(
        "run", "-d", "--pid-file", str(pid_file), "-b", str(bundle.folder), name, **nowhere()
    )
    assert runtime.status(name) == "running"
    assert runtime.pid(name) == int(pid_file.read_text())
    runtime.call("delete", "-f", name)


def nowhere() -> dict[str, Any]:
    return {"capture_output": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def test_pause_and_resume(runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    runtime.create(
        bundle.run("sh", "-c", "while :; do echo x; sleep 0.05; done"), name, output=output
    )
    runtime.call("start", name)
    read_file(output, "x")
    runtime.call("pause", name)
    assert runtime.status(name) == "paused"
    for words, text in (
        (("pause", name), "container not running or created: paused"),
        (("exec", name, "true"), "cannot exec in a paused container"),
        (("delete", name), "is not stopped: paused"),
    ):
        assert text in runtime.call(*words, check=False).stderr
    runtime.call("resume", name)
    size = output.stat().st_size
    wait_until(lambda: output.stat().st_size > size)
    assert "container not paused" in runtime.call("resume", name, check=False).stderr
    runtime.call("pause", name)
    runtime.call("delete", "--force", name)


def test_list_in_all_forms(runtime: Runtime, make_bundle: BundleMaker, name: str) -> None:
    bundle = make_bundle().run("true")
    bundle.spec["annotations"] = {"key": "value"}
    bundle.save()
    runtime.create(bundle, name)
    table = runtime.call("list").stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    (row,) = [line.split() for line in table[1:] if line.startswith(name)]
    assert (row[1], row[2], row[3]) == (
        str(runtime.pid(name)),
        "created",
        str(bundle.folder),
    )
    listed = json.loads(runtime.call("list", "-f", "json").stdout)
    (state,) = [entry for entry in listed if entry["id"] == name]
    assert state == runtime.state(name)
    assert state["annotations"] == {"key": "value"}
    assert state["owner"] == "root"
    runtime.call("delete", name)


def test_nothing_is_listed_as_runc_does_it(tmp_path: Path) -> None:
    empty = Runtime(tmp_path)
    assert empty.call("list").stdout.split() == [
        "ID",
        "PID",
        "STATUS",
        "BUNDLE",
        "CREATED",
        "OWNER",
    ]
    assert empty.call("list", "--format=json").stdout == "null\n"
    assert empty.call("list", "-q").stdout == ""


def test_a_process_that_ends_at_once_is_stopped(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    process = Supervised(runtime, bundle.run("true"), name)
    runtime.call("start", name)
    assert process.finish() == ("", 0)
    assert runtime.status(name) == "stopped"
    for verb in ("start", "pause"):
        assert runtime.call(verb, name, check=False).returncode == 1
    assert runtime.call("exec", name, "true", check=False).returncode == 255
    runtime.call("delete", name)


def test_one_id_is_one_container(runtime: Runtime, bundle: Bundle, shared: str) -> None:
    before = runtime.state(shared)
    done = runtime.call("create", "-b", str(bundle.run("true").folder), shared, check=False)
    assert done.returncode == 1
    assert "container with given ID already exists" in done.stderr
    assert runtime.state(shared) == before
    again = runtime.call("start", shared, check=False)
    assert "cannot start an already running container" in again.stderr


def test_a_stand_in_is_small_and_in_the_containers_cgroup(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    path = f"/kata-tests/{name}"
    bundle.spec["linux"]["cgroupsPath"] = path
    runtime.create(bundle.run("true"), name)
    pid = runtime.pid(name)
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    mounted = [controllers for _, controllers, where in groups if where == path]
    assert {"memory", "cpu", "pids"} <= set(",".join(mounted).split(",")) or mounted == [""]
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)
    assert found
    assert int(found[1]) < 6 << 10
    runtime.call("delete", name)
    assert not list(Path("/sys/fs/cgroup").glob(f"*{path}"))
    for folder in Path("/sys/fs/cgroup").glob("*/kata-tests"):
        os.rmdir(folder)


def test_kill_all_is_for_every_process(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """Also with a signal that can be caught; ``kill`` alone reaches the first process."""
    wait = "while :; do sleep 0.1; done"
    child = f'trap "echo child >> /made/got; exit" USR1; echo up > /made/up; {wait}'
    own = "trap 'echo first >> /made/got' USR1; echo up > /made/ready"
    script = f"sh -c '{child}' & {own}; {wait}"
    bundle.spec["mounts"].append(
        {"destination": "/made", "source": str(tmp_path), "options": ["rbind", "rw"]}
    )
    runtime.create(bundle.run("sh", "-c", script), name)
    runtime.call("start", name)
    read_file(tmp_path / "up", "up")
    read_file(tmp_path / "ready", "up")
    runtime.call("kill", name, "USR1")
    assert read_file(tmp_path / "got", "first").split() == ["first"]
    runtime.call("kill", "--all", name, "USR1")
    wait_until(lambda: (tmp_path / "got").read_text().split().count("first") == 2)
    assert sorted(read_file(tmp_path / "got", "child").split()) == ["child", "first", "first"]
    refused = runtime.call("kill", "--all", "no-such", "USR1", check=False)
    assert "container does not exist" in refused.stderr


def test_a_container_of_a_pod_is_created_again_at_once(
    runtime: Runtime, make_bundle: BundleMaker, name: str, tmp_path: Path
) -> None:
    """As an engine's restart does: in the same machine, whose guest has just known that id."""
    runtime.start_pod(make_bundle(), name)
    member = make_id("member")
    for number in range(10):
        bundle = make_bundle().join(name)
        data = tmp_path / str(number)
        data.mkdir()
        (data / "file").write_text(f"{number}\n")
        bundle.spec["mounts"].append(
            {"destination": "/data", "type": "bind", "source": str(data), "options": ["rbind"]}
        )
        output = tmp_path / f"output{number}"
        runtime.create(bundle.run("cat", "/data/file"), member, output=output)
        runtime.call("start", member)
        runtime.wait_for_status(member, "stopped")
        runtime.call("delete", member)
        assert output.read_text() == f"{number}\n"
    runtime.call("delete", "--force", name)


def test_a_pods_id_is_free_when_its_sandbox_is_deleted(
    runtime: Runtime, make_bundle: BundleMaker, name: str
) -> None:
    """Whatever else was in its machine; what is left of that can be deleted at any time."""
    pod = make_bundle()
    runtime.start_pod(pod, name)
    member = make_id("member")
    runtime.create(make_bundle().join(name).run("sleep", "1000"), member)
    runtime.call("start", member)
    runtime.call("delete", "--force", name)
    wait_until(lambda: runtime.status(member) == "stopped")
    runtime.create(pod, name)
    runtime.call("start", name)
    runtime.call("delete", member)
    assert runtime.status(name) == "running"
    runtime.call("delete", "--force", name)


def test_what_is_created_can_be_started(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """Whoever waits for that state; before, it is ``creating``, and is not deleted by mistake."""
    creation = runtime.begin("create", "-b", str(bundle.run("sleep", "1000").folder), name)
    seen: set[str] = set()
    refusals: set[str] = set()
    while "created" not in seen:
        done = runtime.call("state", name, check=False)
        if done.returncode == 0:
            state = json.loads(done.stdout)
            seen.add(state["status"])
            if state["status"] == "creating" and state["pid"] and not refusals:
                refusals.add(runtime.call("delete", name, check=False).stderr.split("msg=")[-1])
        assert creation.poll() in (None, 0)
    assert creation.wait(20) == 0
    assert seen == {"creating", "created"}
    assert all("that is not stopped: creating" in refusal for refusal in refusals), refusals
    runtime.call("start", name)
    assert runtime.status(name) == "running"


def test_the_weight_of_block_io_is_the_guests(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """As with runc, whose weight the host obeys; here it weighs the containers of a guest."""
    bundle.spec["linux"]["resources"]["blockIO"] = {"weight": 100}
    bundle.run("sleep", "1000")
    read = ("exec", name, "sh", "-c", "cat /sys/fs/cgroup/io.weight")
    runc = Runc(tmp_path / "runc")
    for engine in (runc, runtime):
        engine.call("create", "-b", str(bundle.folder), name, **nowhere())
        engine.call("start", name)
        if engine is runtime:
            assert runtime.call(*read).stdout.splitlines()[0] == "default 910"
        assert engine.call("update", "--blkio-weight", "500", name, check=False).returncode == 0
        refused = engine.call("update", "--blkio-weight", "5000", name, check=False)
        assert refused.returncode == 1
        if engine is runtime:
            assert runtime.call(*read).stdout.splitlines()[0] == "default 4950"
        engine.call("delete", "--force", name)


class Runc(Runtime):
    """The program runc, called likewise."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root

    def argv(self, *words: str) -> list[str]:
        return ["runc", "--root", str(self.root), *words]


def test_a_shim_whose_root_was_deleted_ends_when_it_is_told(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """Nobody can ask for its end any more; otherwise the signal is for others of its group."""
    lost = Runtime(tmp_path / "lost")
    lost.create(bundle.run("sleep", "1000"), name)
    lost.call("start", name)
    stand_in = lost.pid(name)
    shim = find_shim(lost.root)
    os.kill(shim, signal.SIGTERM)
    lost.call("exec", name, "true")
    shutil.rmtree(lost.root)
    os.kill(shim, signal.SIGTERM)
    wait_until(lambda: not is_alive(shim) and not is_alive(stand_in), 3)
    for path in Path("/sys/fs/cgroup").glob(f"*/{name}"):
        path.rmdir()


def find_shim(root: Path) -> int:
    """Return the shim that serves the containers of a state folder."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            where = os.readlink(folder / "cwd")
        except OSError:
            continue
        if where.startswith(f"{root}/") and any("shim" in word for word in words):
            return int(folder.name)
    raise AssertionError(f"no shim below {root}")
