"""What operators ask of a host: check and env."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.support.configuration import write_configuration
from tools.setup import CONFIGURATION, SHARE
from tools.steps import BUILD

PROGRAM = f"{BUILD}/bin/kata-runtime"


def call(config: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "--config", config, *words], capture_output=True, text=True, check=False
    )


def check(config: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = call(config, "check", "--json")
    report = json.loads(done.stdout)
    assert report["usable"] == (done.returncode == 0)
    return done.returncode, {finding["name"]: finding for finding in report["findings"]}


def test_a_host_that_runs_containers() -> None:
    status, findings = check(CONFIGURATION)
    assert status == 0
    for name in ("configuration", "containerd", "QEMU", "virtiofsd", "memory", "guest kernel"):
        assert findings[name]["result"] == "ok", findings[name]
    for name in ("KVM", "vsock", "vhost-net"):
        assert findings[name]["result"] in ("ok", "warning")
        assert findings[name]["result"] == "ok" or findings[name]["remedy"]
    text = call(CONFIGURATION, "check").stdout
    assert "guest initrd" in text
    assert os.path.exists("/dev/vhost-vsock") or "-> modprobe vhost_vsock" in text


@pytest.mark.parametrize(
    ("keys", "name", "detail", "remedy"),
    [
        ({"path": "/bin/false"}, "QEMU", "/bin/false does not run", "apt install qemu-system-x86"),
        ({"virtio_fs_daemon": "/nowhere"}, "virtiofsd", "/nowhere does not run", "apt install"),
        ({"kernel": "/nowhere"}, "guest kernel", "/nowhere: No such file", "kata-image build"),
        ({"file_mem_backend": "/nowhere"}, "memory", "/nowhere: No such file", "mkdir /nowhere"),
    ],
)
def test_what_is_missing_is_named_with_what_mends_it(
    tmp_path: Path, keys: dict[str, object], name: str, detail: str, remedy: str
) -> None:
    status, findings = check(write_configuration(tmp_path / "c.toml", **keys))
    assert status == 1
    assert findings[name]["result"] == "failed"
    assert detail in findings[name]["detail"]
    assert remedy in findings[name]["remedy"]


def test_a_low_limit_of_files_is_told() -> None:
    # Without the capability to raise it, as under most service managers.
    words = ["prlimit", "--nofile=5000:5000", "setpriv", "--bounding-set=-sys_resource"]
    program = [PROGRAM, "--config", CONFIGURATION, "check", "--json"]
    done = subprocess.run([*words, *program], capture_output=True, text=True, check=True)
    (finding,) = [f for f in json.loads(done.stdout)["findings"] if f["name"] == "files"]
    assert finding["result"] == "warning"
    assert finding["detail"].startswith("5000 may be open")
    assert "LimitNOFILE=100000" in finding["remedy"]


def test_a_configuration_that_is_wrong_is_a_finding(tmp_path: Path) -> None:
    status, findings = check(str(tmp_path / "none.toml"))
    assert status == 1
    assert "no such file" in findings["configuration"]["detail"]
    (tmp_path / "bad.toml").write_text("[hypervisor.qemu]\nkernal = 1\n")
    status, findings = check(str(tmp_path / "bad.toml"))
    assert status == 1
    assert "kernal" in findings["configuration"]["detail"]


def test_an_altered_initrd_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "version"
    shutil.copytree(os.path.dirname(os.path.realpath(f"{SHARE}/vmlinux.container")), folder)
    initrd = folder / "kata-containers-initrd.img"
    config = write_configuration(tmp_path / "c.toml", initrd=str(initrd))
    assert check(config)[1]["guest initrd"]["result"] == "ok"
    with open(initrd, "r+b") as file:
        file.seek(1000)
        file.write(b"altered")
    status, findings = check(config)
    assert (status, findings["guest initrd"]["result"]) == (1, "failed")
    assert findings["guest initrd"]["detail"] == f"{initrd} is not as it was built"


def test_env_names_each_values_origin(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[hypervisor.qemu]\ndefault_memory = 300\n")
    (tmp_path / "config.d").mkdir()
    drop_in = tmp_path / "config.d" / "x.toml"
    drop_in.write_text("[runtime]\nenable_debug = true\n")
    report = json.loads(call(str(config), "env", "--json").stdout)
    qemu = report["configuration"]["hypervisor.qemu"]
    assert qemu["default_memory"] == {"value": 300, "origin": str(config)}
    assert qemu["accel"] == {"value": "auto", "origin": "default"}
    assert qemu["virtio_fs_daemon"]["origin"] == "found on this host"
    runtime = report["configuration"]["runtime"]
    assert runtime["enable_debug"] == {"value": True, "origin": str(drop_in)}
    assert report["host"]["cpus"] == os.cpu_count()
    document = tomllib.loads(call(str(config), "env").stdout)
    assert document["configuration"]["hypervisor"]["qemu"]["default_memory"] == 300
    assert document["runtime"]["configuration"] == str(config)
    assert document["versions"] == report["versions"]


def test_env_of_a_wrong_configuration_is_an_error(tmp_path: Path) -> None:
    done = call(str(tmp_path / "none.toml"), "env")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("kata-runtime: read configuration ")
