"""kata-runtime collect: an archive for a report of a fault."""

from __future__ import annotations

import io
import json
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.configuration import write_configuration
from tests.support.runtime import TIMEOUT_S, Bundle, Runtime

pytestmark = pytest.mark.e2e


def read_archive(data: bytes) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {}
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            files[entry.name.removeprefix("kata-collect/")] = content.read().decode()
        return files


def test_an_archive(
    shared_runtime: Runtime, bundle: Bundle, name: str, rootfs: Path, tmp_path: Path
) -> None:
    """It has what tells of a fault, and nothing that the container says or is told."""
    configuration = write_configuration(
        tmp_path / "c.toml", kernel_params="agent.secret_token=hunter2 quiet"
    )
    runtime = Runtime(tmp_path, configuration)
    bundle.spec["annotations"] = {"engine/registry": "hunter3"}
    bundle.run("sh", "-c", "echo hunter4; sleep 1000", env=["PATH=/bin", "X=hunter5"])
    runtime.create(bundle, name)
    runtime.call("start", name)
    try:
        target = tmp_path / "report.tar.gz"
        assert runtime.call("collect", "-o", str(target)).stdout == f"{target}\n"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        files = read_archive(target.read_bytes())
        refused = runtime.call("collect", "-o", str(target), check=False)
        assert f"write {target}: File exists" in refused.stderr
    finally:
        runtime.remove_all()
    place = f"sandboxes/{name}"
    assert {
        *("about.txt", "check.json", "env.json", "containers.json", "failures.txt"),
        *("host/proc/meminfo", "host/etc/os-release", f"configuration{configuration}"),
        *(f"{place}/{file}" for file in ("record.json", "trace", "logs", "metrics", "sandbox")),
    } <= files.keys()
    assert "MemTotal" in files["host/proc/meminfo"]
    assert "sandbox ready" in files[f"{place}/logs"]
    assert "kata_guest_load" in files[f"{place}/metrics"]
    assert [each["id"] for each in json.loads(files["containers.json"])] == [name]
    assert "kernel_params" in json.loads(files["env.json"])["configuration"]["hypervisor.qemu"]
    for file, text in files.items():
        assert "hunter" not in text, file


def test_to_standard_output_without_a_configuration(tmp_path: Path) -> None:
    """What cannot be collected is told, and the rest is there."""
    runtime = Runtime(tmp_path, str(tmp_path / "none.toml"))
    done = subprocess.run(
        runtime.argv("collect", "-o", "-"), capture_output=True, timeout=TIMEOUT_S, check=True
    )
    files = read_archive(done.stdout)
    assert "env.json: read configuration" in files["failures.txt"]
    assert "host/proc/meminfo" in files
