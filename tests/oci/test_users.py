"""Containers with users of their own, made as runc makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime import Bundle, Runtime, run_engine, unpack_busybox

pytestmark = pytest.mark.e2e

# Lines of a map: the first id inside, the first outside, how many.
MAPS = {
    "everybody": ((0, 0, 4294967295),),
    "as on the host": ((0, 0, 65536),),
    "root is another": ((0, 1, 1), (1, 0, 1)),
}
LOOK = """
tr -s ' ' < /proc/self/uid_map; id -u; ls /sys/class/net; hostname
grep ' /sys ' /proc/mounts | cut -d ' ' -f 2-4 | cut -d , -f 1-4
mkdir /new/made /made && stat -c '%u %a' /new /made; touch /sys/kernel/x 2>&1
"""
LIMITS = "grep processes /proc/self/limits"


def map_users(spec: dict[str, Any], lines: tuple[tuple[int, int, int], ...]) -> None:
    linux = spec["linux"]
    linux["namespaces"].append({"type": "user"})
    names = ("containerID", "hostID", "size")
    linux["uidMappings"] = [dict(zip(names, line, strict=True)) for line in lines]
    linux["gidMappings"] = linux["uidMappings"]
    for mount in spec["mounts"]:
        if mount["type"] == "devpts":  # whose group no short map has
            mount["options"] = [word for word in mount["options"] if word != "gid=5"]


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("lines", MAPS.values(), ids=MAPS)
def test_users_of_its_own_with_a_network_as_with_runc(
    runtime: Runtime,
    bundle: Bundle,
    name: str,
    tmp_path: Path,
    lines: tuple[tuple[int, int, int], ...],
    limited: bool,
) -> None:
    """A network's sysfs is for who owns it, and folders are made by root of the namespace."""
    map_users(bundle.spec, lines)
    bundle.spec["mounts"].append({"destination": "/new", "type": "tmpfs", "source": "tmpfs"})
    if limited:
        bundle.spec["linux"]["resources"]["pids"] = {"limit": 50}
        bundle.spec["process"]["rlimits"] = [{"type": "RLIMIT_NPROC", "soft": 50, "hard": 60}]
    script = LOOK + LIMITS if limited else LOOK
    words = ("run", "-b", str(bundle.folder), name)
    ends: list[subprocess.CompletedProcess[str]] = []
    for argv in (["runc", "--root", str(tmp_path / "state")], runtime.argv()):
        root = tmp_path / f"root{len(ends)}"  # where no mount point was made before
        root.mkdir(mode=0o755)
        unpack_busybox(root)
        bundle.spec["root"]["path"] = str(root)
        bundle.run("sh", "-c", script, capabilities=own_capabilities())
        ends.append(run_engine([*argv, *words], check=False))
    runc, ours = ends
    assert " 755\n" in runc.stdout, runc.stderr
    assert (ours.returncode, ours.stdout) == (runc.returncode, runc.stdout), ours.stderr


def own_capabilities() -> dict[str, list[str]]:
    return {kind: ["CAP_DAC_OVERRIDE"] for kind in ("bounding", "effective", "permitted")}
