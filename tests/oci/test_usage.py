"""Words that do not fit: texts and exit statuses as runc has them; nothing is made."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.runtime import PROGRAM, Bundle, Runtime

pytestmark = pytest.mark.e2e


@pytest.fixture
def lone(tmp_path: Path) -> Runtime:
    """The runtime with a root where nothing may ever be."""
    return Runtime(tmp_path)


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("foo",), 3, "No help topic for 'foo'"),
        (("state",), 1, '\\"state\\" requires exactly 1 argument(s)'),
        (("state", "a", "b"), 1, '\\"state\\" requires exactly 1 argument(s)'),
        (("list", "x"), 1, '\\"list\\" requires exactly 0 argument(s)'),
        (("state", "--foo", "x"), 1, "flag provided but not defined: -foo"),
        (("kill",), 1, "requires a minimum of 1 argument(s)"),
        (("kill", "a", "b", "c"), 1, "requires a maximum of 2 argument(s)"),
        (("kill", "nope"), 1, "container does not exist"),
        (("state", "nope"), 1, "container does not exist"),
        (("start", "nope"), 1, "container does not exist"),
        (("delete", "nope"), 1, "container does not exist"),
        (("exec", "nope", "true"), 255, "exec failed: container does not exist"),
        (("ps", "nope"), 1, "container does not exist"),
        (("pause", "nope"), 1, "container does not exist"),
        (("events", "nope"), 1, "container does not exist"),
        (("update", "nope"), 1, "container does not exist"),
        (("list", "-f", "yaml"), 1, "invalid format option"),
        (("state", "../etc"), 1, "check container id"),
        (("create", "--preserve-fds", "x", "c"), 1, 'invalid value \\"x\\" for flag'),
        (("create", "--bundle"), 1, "flag needs an argument: -bundle"),
        (("create", "--bundle", "/nonexistent", "c"), 1, "chdir /nonexistent: no such file"),
    ],
)
def test_usage(lone: Runtime, words: tuple[str, ...], status: int, text: str) -> None:
    done = lone.call(*words, check=False)
    assert (done.returncode, text in done.stderr) == (status, True), done
    assert not lone.root.exists()


def test_a_missing_container_is_deleted_by_force(lone: Runtime) -> None:
    assert lone.call("delete", "--force", "nope").stderr == ""


def test_errors_go_to_the_log_in_its_format(lone: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = lone.call("--log", str(log), "--log-format", "json", "state", "nope", check=False)
    assert (done.returncode, done.stderr) == (1, "container does not exist\n")
    entry = json.loads(log.read_text())
    assert (entry["level"], entry["msg"]) == ("error", "container does not exist")
    assert set(entry) == {"level", "msg", "time"}
    lone.call("--log", str(log), "state", "nope", check=False)
    assert 'level=error msg="container does not exist"' in log.read_text().splitlines()[1]
    done = lone.call("--log-format", "xml", "list", check=False)
    assert (done.returncode, "invalid log-format: 'xml'" in done.stderr) == (1, True)


def test_help_and_version() -> None:
    done = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=True)
    assert "GLOBAL OPTIONS" in done.stdout
    assert "create and start a container" in done.stdout
    done = subprocess.run([PROGRAM, "help", "exec"], capture_output=True, text=True, check=True)
    assert "--additional-gids value, -g value" in done.stdout
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("kata-runtime version ")
    assert "spec: 1.2.0" in done.stdout


def test_features_are_the_specifications() -> None:
    done = subprocess.run([PROGRAM, "features"], capture_output=True, text=True, check=True)
    features = json.loads(done.stdout)
    assert features["ociVersionMax"] == "1.2.0"
    assert "prestart" in features["hooks"]
    assert "network" in features["linux"]["namespaces"]


def refuse(runtime: Runtime, bundle: Bundle, *flags: str) -> str:
    """Return the error of a create that is refused, and leaves nothing."""
    done = runtime.call("create", "-b", str(bundle.folder), *flags, "c1", check=False)
    assert done.returncode == 1
    assert not runtime.root.exists() or not list(runtime.root.iterdir())
    return done.stderr


def test_bad_bundles(lone: Runtime, bundle: Bundle) -> None:
    bundle.spec["root"]["path"] = "/nonexistent"
    assert "invalid rootfs: stat /nonexistent" in refuse(lone, bundle.run("true"))
    (bundle.folder / "config.json").write_text("{")
    assert "invalid JSON" in refuse(lone, bundle)
    (bundle.folder / "config.json").write_text("[]")
    assert "it is no JSON object" in refuse(lone, bundle)
    (bundle.folder / "config.json").write_text("{}")
    assert "root is missing" in refuse(lone, bundle)
    (bundle.folder / "config.json").unlink()
    assert "JSON specification file config.json not found" in refuse(lone, bundle)


def test_bad_files(lone: Runtime, bundle: Bundle, tmp_path: Path) -> None:
    bundle.run("true")
    assert "/nonexistent/pid: no such file" in refuse(
        lone, bundle, "--pid-file", "/nonexistent/pid"
    )
    assert "a virtual machine cannot take" in refuse(lone, bundle, "--preserve-fds", "2")
    text = refuse(lone, bundle, "--console-socket", str(tmp_path / "none"))
    assert "cannot use console socket if runc will not detach or allocate tty" in text
    bundle.run("true", terminal=True)
    assert "cannot allocate tty if runc will detach" in refuse(lone, bundle)
    assert "No such file or directory" in refuse(
        lone, bundle, "--console-socket", str(tmp_path / "none")
    )
    (tmp_path / "file").touch()
    text = refuse(lone, bundle, "--console-socket", str(tmp_path / "file"))
    assert f"console socket {tmp_path}/file: Connection refused" in text


def test_namespaces_no_machine_can_have(lone: Runtime, bundle: Bundle) -> None:
    own = bundle.run("true").spec["linux"]["namespaces"]
    bundle.spec["linux"]["namespaces"] = [
        {**entry, "path": "/proc/1/ns/pid"} if entry["type"] == "pid" else entry for entry in own
    ]
    bundle.save()
    text = refuse(lone, bundle)
    assert "pid namespace /proc/1/ns/pid: a virtual machine cannot join it" in text
    bundle.spec["linux"]["namespaces"] = [entry for entry in own if entry["type"] != "network"]
    bundle.save()
    assert "hostNetwork" in refuse(lone, bundle)
    bundle.spec["linux"]["namespaces"] = [*own, own[0]]
    bundle.save()
    assert "is there twice" in refuse(lone, bundle)


def test_a_cgroup_that_cannot_be_made(lone: Runtime, bundle: Bundle) -> None:
    bundle.spec["linux"]["cgroupsPath"] = "/../up"
    assert "make cgroup /../up: it leads upwards" in refuse(lone, bundle.run("true"))
    bundle.spec["linux"]["cgroupsPath"] = "/cgroup.procs/below"
    assert "make cgroup " in refuse(lone, bundle.run("true"))


def test_state_of_another_version_is_named(lone: Runtime) -> None:
    folder = lone.root / "c1"
    folder.mkdir(parents=True)
    (folder / "state.json").write_text('{"version": 99}')
    done = lone.call("state", "c1", check=False)
    assert done.returncode == 1
    assert f"{folder}/state.json: version 99, this program knows 1" in done.stderr
    (folder / "state.json").write_text('{"version": 1}')
    assert f"read {folder}/state.json" in lone.call("state", "c1", check=False).stderr


def test_spec_is_written_once(lone: Runtime, tmp_path: Path) -> None:
    lone.call("spec", "--bundle", str(tmp_path))
    assert json.loads((tmp_path / "config.json").read_text())["process"]["args"] == ["sh"]
    done = lone.call("spec", "--bundle", str(tmp_path), check=False)
    assert (done.returncode, "File config.json exists" in done.stderr) == (1, True)


def test_a_socket_that_nobody_accepts_on_is_no_console(
    lone: Runtime, bundle: Bundle, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(f"{tmp_path}/s")
        bundle.run("true", terminal=True)
        assert "Protocol wrong type" in refuse(lone, bundle, "--console-socket", f"{tmp_path}/s")
