"""An engine's hooks, on the host: their order, their input, their failures."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime import Bundle, Runtime, run_engine

pytestmark = pytest.mark.e2e

KINDS = ("prestart", "createRuntime", "poststart", "poststop")


def hook(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def note(tmp_path: Path, word: str) -> dict[str, Any]:
    """Return a hook that writes down that it was called, with its input."""
    return hook(f'echo {word} "$WHO" >> {tmp_path}/order; cat > {tmp_path}/{word}', env=["WHO=me"])


def test_hooks_run_in_order_with_the_state(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    bundle.spec["hooks"] = {kind: [note(tmp_path, kind)] for kind in KINDS}
    bundle.spec["annotations"] = {"some": "thing"}
    runtime.create(bundle.run("sleep", "1000"), name)
    pid = runtime.pid(name)
    order = tmp_path / "order"
    assert order.read_text().split("\n")[:-1] == ["prestart me", "createRuntime me"]
    runtime.call("start", name)
    runtime.call("delete", "--force", name)
    assert [line.split()[0] for line in order.read_text().splitlines()] == list(KINDS)
    states = {kind: json.loads((tmp_path / kind).read_text()) for kind in KINDS}
    expected = {"id": name, "bundle": str(bundle.folder), "annotations": {"some": "thing"}}
    for kind, status in zip(KINDS, ("creating", "creating", "running", "stopped"), strict=True):
        assert states[kind]["status"] == status
        assert expected.items() <= states[kind].items()
    assert states["createRuntime"]["pid"] == pid


@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_a_hook_that_fails_fails_the_creation(
    runtime: Runtime, bundle: Bundle, name: str, kind: str
) -> None:
    bundle.spec["hooks"] = {kind: [hook("true"), hook("echo why >&2; exit 3")]}
    bundle.run("true")
    done = runtime.call("create", "-b", str(bundle.folder), name, check=False)
    assert done.returncode == 1
    assert "error running hook #1: /bin/sh: exit status 3, stderr: why" in done.stderr
    assert name not in runtime.list_names()


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (hook("sleep 10", timeout=1), "error running hook #0: /bin/sh: no end after 1 s"),
        ({"path": "/nonexistent"}, "error running hook #0: /nonexistent: No such file"),
        ({"path": "relative"}, "hooks: a path is not absolute"),
    ],
)
def test_hooks_that_cannot_run(
    runtime: Runtime, bundle: Bundle, name: str, bad: dict[str, Any], text: str
) -> None:
    bundle.spec["hooks"] = {"createRuntime": [bad]}
    bundle.run("true")
    done = runtime.call("create", "-b", str(bundle.folder), name, check=False)
    assert (done.returncode, text in done.stderr) == (1, True), done
    assert name not in runtime.list_names()


def test_the_containers_own_hook_runs_in_it(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    made = {"destination": "/made", "source": str(tmp_path), "options": ["rbind", "rw"]}
    bundle.spec["mounts"].append({**made, "type": "bind"})
    own = {"path": "/bin/sh", "args": ["sh", "-c", "uname -r > /made/release"]}
    bundle.spec["hooks"] = {"startContainer": [own], "createContainer": [hook("true")]}
    bundle.run("uname", "-r")
    done = runtime.call("run", "-b", str(bundle.folder), name)
    assert (tmp_path / "release").read_text() == done.stdout


@pytest.mark.parametrize("env", [None, [], ["WHO=me"]])
def test_a_hook_without_environment_has_the_callers_as_with_runc(
    runtime: Runtime,
    bundle: Bundle,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: list[str] | None,
) -> None:
    """It starts in the bundle, with runc's; an empty list is no environment."""
    monkeypatch.setenv("CALLERS", "yes")
    seen = tmp_path / "seen"
    script = f'echo "$CALLERS $WHO" >> {seen}; pwd >> {seen}'
    member = {} if env is None else {"env": env}
    bundle.spec["hooks"] = {
        "createRuntime": [hook(script, **member)],
        "poststop": [hook(f'echo "late $CALLERS $WHO" >> {seen}', **member)],
    }
    bundle.run("sleep", "1000")
    create = ("create", "-b", str(bundle.folder), name)
    texts = []
    for argv in (["runc", "--root", str(tmp_path / "runc")], runtime.argv()):
        for words in (create, ("delete", "--force", name)):
            subprocess.run([*argv, *words], check=True, timeout=60, **nowhere())
        texts.append(seen.read_text())
        seen.unlink()
    callers = "yes" if env is None else ""
    who = "me" if env else ""
    assert texts[0] == f"{callers} {who}\n{bundle.folder}\nlate {callers} {who}\n"
    assert texts[1] == texts[0]


def test_a_poststart_hook_that_fails_ends_the_container_as_with_runc(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """These hooks runc 1.1 runs in ``create`` already, the specification wants ``start``."""
    ends = tmp_path / "ends"
    bundle.spec["hooks"] = {
        "poststart": [hook("echo why >&2; exit 3"), hook(f"echo not this >> {ends}")],
        "poststop": [hook(f"echo gone >> {ends}")],
    }
    bundle.run("sleep", "1000")
    words = ("run", "--detach", "-b", str(bundle.folder), name)
    runc = ["runc", "--root", str(tmp_path / "runc")]
    told = run_engine([*runc, *words], check=False)
    assert told.returncode == 1
    assert "error running hook #0" in told.stderr
    assert "exit status 3" in told.stderr
    assert run_engine([*runc, "list", "-q"]).stdout == ""
    assert ends.read_text() == "gone\n"
    said = "error running hook #0: /bin/sh: exit status 3, stderr: why"
    for verb in ("run", "start"):
        ends.unlink()
        if verb == "start":
            runtime.create(bundle, name)
        done = runtime.call(*(words if verb == "run" else (verb, name)), check=False)
        assert (done.returncode, said in done.stderr) == (1, True), done
        assert name not in runtime.list_names()
        assert ends.read_text() == "gone\n"


def test_last_hooks_that_fail_are_told_and_change_nothing(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """All of them run, and what became of the bundle is nothing to them."""
    last = [hook("exit 2"), hook(f"touch {tmp_path}/last")]
    bundle.spec["hooks"] = {"poststop": last}
    runtime.create(bundle.run("sleep", "1000"), name)
    (bundle.folder / "config.json").unlink()
    runtime.call("start", name)
    deleted = runtime.call("delete", "--force", name)
    assert f'level=warning msg="poststop of {name}: error running hook #0' in deleted.stderr
    assert name not in runtime.list_names()
    assert (tmp_path / "last").exists()


def nowhere() -> dict[str, Any]:
    return dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
