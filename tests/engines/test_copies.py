"""Files of containers by Podman and Docker: copied both ways, mounted, looked at; never the host's.

The same words are asked of a container of runc, if the engine has it, and of kata.
"""

from __future__ import annotations

import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.conftest import IMAGE, Engine, find_pid, list_sandboxes
from tests.support.runtime import run_engine, wait_until

pytestmark = pytest.mark.e2e

ENGINES = ("podman", "docker")
SHADOW = "/etc/shadow"
INSIDE = "root:of-the-container:1::::::\n"


class Box:
    """A running container with a volume, a read-only volume, and memory."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.name = f"box{time.monotonic_ns()}"
        for name in ("rw", "ro"):
            (folder / name).mkdir()
            (folder / name / "given").write_text(name)
        engine.call(
            *("run", "-d", "--name", self.name, "--network", "none", "--hostname", "boxed"),
            *("-v", f"{folder}/rw:/rw", "-v", f"{folder}/ro:/ro:ro", "--tmpfs", "/memory"),
            *("--health-cmd", "test -e /tmp/healthy", "--health-interval", "1s"),
            *(IMAGE, "sh", "-c", f"echo '{INSIDE.strip()}' > {SHADOW}; exec sleep 4711"),
        )
        wait_until(lambda: self.read(SHADOW) == INSIDE.strip())

    def read(self, path: str) -> str:
        """Return what a file has for the container's programs."""
        return self.engine.run("exec", self.name, "cat", path, check=False)

    def sees(self, path: str, text: str) -> bool:
        """Return whether the container's programs see a file with this content within a second."""
        deadline = time.monotonic() + 1.0
        while (found := self.read(path)) != text and time.monotonic() < deadline:
            pass
        return found == text

    def fetch(self, path: str) -> dict[str, str]:
        """Return the files of an archive that the engine makes of a path."""
        with tempfile.TemporaryFile() as file:
            process = self.engine.begin("cp", f"{self.name}:{path}", "-", stdout=file)
            if process.wait(60):
                return {}
            file.seek(0)
            with tarfile.open(fileobj=file) as archive:
                files = {m.name: archive.extractfile(m) for m in archive if m.isfile()}
                return {name: found.read().decode() for name, found in files.items() if found}

    def put(self, text: str, path: str, *, check: bool = True) -> int:
        """Copy a file into the container; returns the exit status."""
        source = self.folder / "source"
        source.write_text(text)
        words = ("cp", str(source), f"{self.name}:{path}")
        return self.engine.call(*words, check=check).returncode


@pytest.fixture(scope="module", params=ENGINES)
def box(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    engine: Engine = request.getfixturevalue(request.param)
    before = set(list_sandboxes())
    made = Box(engine, tmp_path_factory.mktemp("files"))
    yield made
    engine.call("rm", "--force", made.name)
    wait_until(lambda: set(list_sandboxes()) <= before)


def test_what_is_copied_out_is_the_containers(box: Box) -> None:
    assert box.fetch(SHADOW) == {"shadow": INSIDE}
    out = box.folder / "out"
    box.engine.call("cp", f"{box.name}:{SHADOW}", str(out))
    assert out.read_text() == INSIDE
    assert box.fetch("/rw/given") == {"given": "rw"}
    assert "given" in str(box.fetch("/ro/"))
    box.engine.call("exec", box.name, "sh", "-c", "mkdir /made; echo a > /made/a; echo b > /rw/b")
    assert box.fetch("/made") == {"made/a": "a\n"}
    assert box.fetch("/rw/b") == {"b": "b\n"}


def test_nothing_of_the_host_is_copied_out(box: Box) -> None:
    """Whatever the image has for links."""
    marker = box.folder / "marker"
    marker.write_text("of the host")
    up = "../" * 16
    box.engine.call(
        *("exec", box.name, "sh", "-c"),
        f"ln -s {marker} /absolute; ln -s {up}{marker} /up; ln -s {marker} /rw/absolute;"
        f" ln -s {up}{marker} /rw/up; ln -s {up}{box.folder} /rw/folder",
    )
    names = (str(marker), "/absolute", "/up", "/rw/absolute", "/rw/up", "/rw/folder/marker")
    for name in (*names, f"/{up}{marker}", f"/proc/1/root{marker}", f"/proc/1/cwd{marker}"):
        assert "of the host" not in box.fetch(name).values(), name
        box.put("escaped", name, check=False)
        assert marker.read_text() == "of the host", name
    assert not (box.folder / "escaped").exists()


def test_what_is_copied_in_is_the_containers(box: Box) -> None:
    marker = Path(f"/tmp/{box.name}")
    box.put("copied", str(marker))
    assert box.sees(str(marker), "copied")
    assert not marker.exists()
    box.put("changed", str(marker))
    assert box.sees(str(marker), "changed")
    box.put("in the volume", "/rw/copied")
    assert (box.folder / "rw/copied").read_text() == "in the volume"
    assert box.sees("/rw/copied", "in the volume")


def test_what_cannot_be_written_is_not(box: Box) -> None:
    assert box.put("refused", "/ro/copied", check=False) != 0
    assert os.listdir(box.folder / "ro") == ["given"]


def test_a_healthcheck_is_the_containers(box: Box) -> None:
    assert "/tmp/healthy" not in box.fetch("/tmp/healthy")
    box.put("", "/tmp/healthy")
    if box.engine.argv("x")[-2:] == ["docker", "x"]:
        show = ("inspect", "-f", "{{.State.Health.Status}}", box.name)
        wait_until(lambda: box.engine.run(*show) == "healthy")
    else:
        # Podman's timers are systemd's.
        assert box.engine.call("healthcheck", "run", box.name).returncode == 0


def test_processes_that_are_shown_are_the_containers(box: Box) -> None:
    shown = box.engine.run("top", box.name).splitlines()
    assert len(shown) == 2
    assert "sleep 4711" in shown[1] or "sh -c" in shown[1]


def test_who_enters_by_the_pid(box: Box) -> None:
    pid = str(find_pid(box.engine, box.name))
    script = f"cat {SHADOW}; hostname; ls -d /proc/[0-9]* | wc -l; ls /.."
    done = run_engine(
        ["nsenter", "-t", pid, "-m", "-p", "-u", "-i", "/bin/sh", "-c", script],
        env={"PATH": "/bin"},
    )
    text, name, count, *files = done.stdout.splitlines()
    assert (text, name, count) == (INSIDE.strip(), "boxed", "4")  # it, the shell, ls, wc
    assert "boot" not in files


def test_a_mounted_container(podman: Engine, box: Box) -> None:
    if box.engine is not podman:
        pytest.skip("Docker has no such verb")
    folder = podman.run("mount", box.name)
    assert Path(f"{folder}{SHADOW}").read_text() == INSIDE
    Path(f"{folder}/by-mount").write_text("text")
    assert box.sees("/by-mount", "text")
    podman.call("umount", box.name)


def test_a_member_of_a_pod(podman: Engine, tmp_path: Path) -> None:
    pod = f"pod{time.monotonic_ns()}"
    podman.call("pod", "create", "--name", pod, "--share", "net,ipc,uts,pid", "--network", "none")
    try:
        for name in ("a", "b"):
            podman.call(
                *("run", "-d", "--pod", pod, "--name", f"{pod}-{name}", IMAGE),
                *("sh", "-c", f"echo {name} > /mine; exec sleep 471{name == 'a':d}"),
            )
        for name in ("a", "b"):
            out = tmp_path / name
            podman.call("cp", f"{pod}-{name}:/mine", str(out))
            assert out.read_text() == f"{name}\n"
        assert len(podman.run("pod", "top", pod).splitlines()) >= 3
    finally:
        podman.call("pod", "rm", "--force", "--time", "0", pod)
