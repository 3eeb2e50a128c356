"""Volumes that kubelet changes: seen in the container in order, by inotify, within 2 s."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e

LIMIT_S = 2.0
_STAMPS = itertools.count(1)


class Volume:
    """A volume's folder on the host, written as kubelet does (AtomicWriter)."""

    def __init__(self, folder: Path, kind: str, name: str) -> None:
        self.path = folder / f"kubernetes.io~{kind}" / name
        self.path.mkdir(parents=True)

    def write(self, **keys: str) -> None:
        """Replace the volume's content."""
        names = {key.replace("__", "/"): text for key, text in keys.items()}
        old = self.path / os.readlink(self.path / "..data") if self._has_data() else None
        version = self.path / f"..2026_{next(_STAMPS)}"
        version.mkdir(0o755)
        for name, text in names.items():
            (version / name).parent.mkdir(exist_ok=True)
            (version / name).write_text(text)
            (version / name).chmod(0o640)
            os.chown(version / name, -1, 1234)
        (self.path / "..data_tmp").symlink_to(version.name)
        (self.path / "..data_tmp").rename(self.path / "..data")
        tops = {name.split("/")[0] for name in names}
        for name in tops:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for entry in self.path.iterdir():
            if not entry.name.startswith("..") and entry.name not in tops:
                entry.unlink()
        if old is not None:
            subprocess.run(["rm", "-r", str(old)], check=True)

    def _has_data(self) -> bool:
        return (self.path / "..data").is_symlink()

    def mount(self, target: str = "/etc/config") -> dict[str, object]:
        """Return the mount for a container."""
        return {"container_path": target, "host_path": str(self.path), "readonly": True}


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    made = Volume(tmp_path, "configmap", "settings")
    made.write(color="blue", sub__size="1")
    return made


def wait_shown(container: Container, path: str, wanted: str, limit_s: float = LIMIT_S) -> None:
    """Wait in the container itself: an exec is slow."""
    steps = int(limit_s * 20)
    script = f'i=0; until [ "$(cat {path})" = "{wanted}" ]; do i=$((i+1)); '
    container.sh(script + f"[ $i -gt {steps} ] && exit 1; sleep 0.05; done")


def test_content_owner_and_links_are_the_hosts(pod: Pod, volume: Volume) -> None:
    container = pod.run(mounts=[volume.mount()])
    assert container.sh("cat /etc/config/color /etc/config/sub/size") == "blue1"
    assert container.sh("stat -L -c '%a %u %g' /etc/config/color") == "640 0 1234"
    assert container.sh("readlink /etc/config/color") == "..data/color"
    with pytest.raises(AssertionError, match="Read-only"):
        container.sh("echo x > /etc/config/color")


def test_updates_are_seen_in_order_by_inotify(pod: Pod, volume: Volume, servers: str) -> None:
    container = pod.run(
        "sh",
        "-c",
        "echo watching; inotifywait -q -m -e moved_to -e create -e delete --format '%e %f'"
        # Without a process for each look: under emulation that would be most of what is measured.
        " /etc/config | while read event name; do color=; shape=;"
        " { read color < /etc/config/color; read shape < /etc/config/shape; } 2>/dev/null;"
        ' echo "$event $name: $color$shape"; done',
        image=servers,
        mounts=[volume.mount()],
    )
    container.wait_log("watching")
    time.sleep(1)  # until inotifywait, which says nothing, has begun
    started = time.monotonic()
    volume.write(color="red", shape="round")
    container.wait_log("shape: redround", LIMIT_S + 1)
    took = time.monotonic() - started
    assert took < LIMIT_S
    events = [line.split(":")[0] for line in container.log().splitlines() if " ..data" in line]
    assert events == ["MOVED_TO ..data"]
    # From the switch on everything is of the new version.
    after = container.log().split("MOVED_TO ..data: ")[1]
    assert "blue" not in after
    assert after.startswith("red")


def test_a_key_that_is_removed_goes(pod: Pod, volume: Volume) -> None:
    container = pod.run(mounts=[volume.mount()])
    volume.write(color="green")
    wait_shown(container, "/etc/config/color", "green")
    container.sh("until [ ! -e /etc/config/sub ]; do sleep 0.05; done")
    container.sh("until [ $(ls -d /etc/config/..2026* | wc -l) = 1 ]; do sleep 0.05; done")


def test_containers_share_one_volume_and_a_restart_sees_the_current(
    pod: Pod, volume: Volume
) -> None:
    first, second = (pod.run(mounts=[volume.mount()]) for _ in range(2))
    volume.write(color="grey")
    for container in (first, second):
        wait_shown(container, "/etc/config/color", "grey")
    first.stop()
    volume.write(color="white")
    assert pod.output("cat", "/etc/config/color", mounts=[volume.mount()]) in ("grey", "white")
    third = pod.run(mounts=[volume.mount()])
    wait_shown(third, "/etc/config/color", "white")


def test_many_updates_in_a_row(pod: Pod, volume: Volume) -> None:
    container = pod.run(mounts=[volume.mount()])
    for number in range(30):
        volume.write(color=f"c{number}")
    wait_shown(container, "/etc/config/color", "c29")


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Volume]:
    """A secret: on a tmpfs of its own, which kubelet mounts after the engine has started."""
    made = Volume(tmp_path, "secret", "token")
    subprocess.run(["mount", "-t", "tmpfs", "none", str(made.path)], check=True)
    made.write(token="first")
    yield made
    subprocess.run(["umount", str(made.path)], check=True)


def test_a_secret_in_memory(pod: Pod, secret: Volume) -> None:
    container = pod.run(mounts=[secret.mount("/secret")])
    assert container.sh("cat /secret/token") == "first"
    secret.write(token="second")
    wait_shown(container, "/secret/token", "second")
    container.remove()


@pytest.mark.parametrize("kind", ["projected", "downward-api"])
def test_other_kinds(pod: Pod, tmp_path: Path, kind: str) -> None:
    volume = Volume(tmp_path, kind, "info")
    volume.write(labels="a=1")
    container = pod.run(mounts=[volume.mount("/info")])
    volume.write(labels="a=2")
    wait_shown(container, "/info/labels", "a=2")


def test_a_large_volume_is_shared(pod: Pod, tmp_path: Path) -> None:
    volume = Volume(tmp_path, "configmap", "large")
    volume.write(data="x" * (2 << 20), version="1")
    container = pod.run(mounts=[volume.mount()])
    assert container.sh("wc -c < /etc/config/data") == str(2 << 20)
    volume.write(data="x", version="2")
    wait_shown(container, "/etc/config/version", "2")


def test_a_volume_that_is_removed_stays_as_it_was(pod: Pod, volume: Volume) -> None:
    container = pod.run(mounts=[volume.mount()])
    subprocess.run(["rm", "-r", str(volume.path)], check=True)
    time.sleep(0.5)
    assert container.sh("echo fine") == "fine"
    assert pod.output("echo", "alive") == "alive\n"
