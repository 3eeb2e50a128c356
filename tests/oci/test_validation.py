"""What the test programs of opencontainers/runtime-tools validate of a runtime.

Those on life cycle, kill, state, hooks and pid files have their tests in the modules beside this
one.  Here are those that look at what a container sees, and at what must not matter; one container
answers all questions of the first kind.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.runtime import Bundle, Runtime, run_engine

pytestmark = pytest.mark.e2e

MASKED = ["/proc/kcore", "/proc/latency_stats", "/proc/timer_list", "/sys/firmware"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@pytest.fixture(scope="module")
def inside(
    shared_runtime: Runtime, rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runtime]:
    """A container with something of everything; its name is ``valid``."""
    folder = tmp_path_factory.mktemp("valid")
    shared = Path(tempfile.mkdtemp(dir=folder))
    shared.chmod(0o755)
    (shared / "file").write_text("of the host")
    bundle = Bundle(folder / "bundle", rootfs)
    spec = bundle.spec
    spec["hostname"] = "valid-host"
    spec["root"]["readonly"] = True
    spec["mounts"] += [
        {
            "destination": "/tmp/bound",
            "type": "bind",
            "source": str(shared),
            "options": ["bind", "ro", "nosuid", "noexec"],
        },
        {
            "destination": "/tmp/memory",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "nodev", "size=1m", "mode=1750"],
        },
    ]
    spec["linux"]["maskedPaths"] = MASKED
    spec["linux"]["readonlyPaths"] = READ_ONLY
    spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "65000"}
    spec["linux"]["devices"] = [
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 5, "fileMode": 0o644, "uid": 7}
    ]
    capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
    bundle.run(
        "sleep",
        "100000",
        user={"uid": 0, "gid": 5, "additionalGids": [10, 11], "umask": 0o37},
        env=["PATH=/bin", "WORD=two words", "EMPTY="],
        cwd="/tmp",
        rlimits=[{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}],
        oomScoreAdj=345,
        noNewPrivileges=True,
        capabilities=dict.fromkeys(
            ("bounding", "effective", "permitted", "inheritable"), capabilities
        ),
    )
    name = "valid"
    shared_runtime.create(bundle, name)
    shared_runtime.call("start", name)
    yield shared_runtime
    shared_runtime.call("delete", "--force", name)


def ask(inside: Runtime, script: str, *, check: bool = True) -> str:
    """Run a script beside the container's process, as what the specification made of it."""
    return inside.call("exec", "valid", "sh", "-c", script, check=check).stdout.strip()


def status(inside: Runtime) -> dict[str, str]:
    """Return what the kernel tells of the container's own process."""
    text = ask(inside, "cat /proc/1/status")
    return {
        key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())
    }


def test_process_and_user(inside: Runtime) -> None:
    facts = status(inside)
    assert facts["Uid"].split() == ["0"] * 4
    assert facts["Gid"].split() == ["5"] * 4
    assert facts["Groups"].split() == ["10", "11"]
    assert facts["Umask"] == "0037"
    assert ask(inside, "tr '\\0' '\\n' < /proc/1/environ").splitlines()[:3] == [
        "PATH=/bin",
        "WORD=two words",
        "EMPTY=",
    ]
    assert ask(inside, "tr '\\0' ' ' < /proc/1/cmdline") == "sleep 100000"
    assert ask(inside, "readlink /proc/1/cwd") == "/tmp"


def test_limits_and_oom_score(inside: Runtime) -> None:
    limits = ask(inside, "grep 'open files' /proc/1/limits").split()
    assert limits[3:5] == ["123", "456"]
    assert ask(inside, "cat /proc/1/oom_score_adj") == "345"


def test_limits_are_the_specs_as_with_runc(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """Those that it names; more open files than before, and fewer of the rest."""
    named = [
        {"type": "RLIMIT_NOFILE", "soft": 2000, "hard": 3000},
        {"type": "RLIMIT_NPROC", "soft": 400, "hard": 500},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 4096},
        {"type": "RLIMIT_MEMLOCK", "soft": 65536, "hard": 65536},
    ]
    words = "open files|processes|core file size|locked memory"
    bundle.run("grep", "-E", words, "/proc/self/limits", rlimits=named)
    runc = ["runc", "--root", str(tmp_path / "runc"), "run", "-b", str(bundle.folder), name]
    told = run_engine(runc).stdout
    assert told.splitlines()[0].split()[-3:-1] == ["0", "4096"]
    assert runtime.call("run", "-b", str(bundle.folder), name).stdout == told


def test_capabilities_and_privileges(inside: Runtime) -> None:
    facts = status(inside)
    wanted = 1 << 0 | 1 << 5 | 1 << 13
    assert [int(facts[key], 16) for key in ("CapBnd", "CapEff", "CapPrm", "CapInh")] == [wanted] * 4
    assert int(facts["CapAmb"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_hostname_and_namespaces(inside: Runtime) -> None:
    """The container has its own; those of the guest itself are other ones."""
    assert ask(inside, "hostname") == "valid-host"
    assert socket.gethostname() != "valid-host"
    for kind in ("pid", "mnt", "uts", "ipc", "net"):
        assert ask(inside, f"readlink /proc/1/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


def test_root_is_read_only(inside: Runtime) -> None:
    assert "Read-only" in inside.call("exec", "valid", "touch", "/x", check=False).stderr
    options = ask(inside, "grep ' / ' /proc/mounts").split()[3].split(",")
    assert options[0] == "ro"


def test_default_file_systems_and_devices(inside: Runtime) -> None:
    mounts = dict(line.split()[1:3] for line in ask(inside, "cat /proc/mounts").splitlines())
    assert mounts["/proc"] == "proc"
    assert mounts["/sys"] == "sysfs"
    assert mounts["/dev/pts"] == "devpts"
    assert mounts["/dev/shm"] == "tmpfs"
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert ask(inside, f"test -c /dev/{name} && echo yes") == "yes"
    assert ask(inside, "readlink /dev/ptmx").endswith("pts/ptmx")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        assert ask(inside, f"readlink /dev/{name}") == f"/proc/self/fd{target}"


def test_a_device_of_its_own(inside: Runtime) -> None:
    assert ask(inside, "stat -c '%t:%T %a %u' /dev/mine") == "1:5 644 7"
    assert ask(inside, "head -c 3 /dev/mine | tr '\\0' z") == "zzz"


def test_mounts_and_their_options(inside: Runtime) -> None:
    assert ask(inside, "cat /tmp/bound/file") == "of the host"
    lines = ask(inside, "grep ' /tmp/' /proc/mounts").splitlines()
    options = {line.split()[1]: set(line.split()[3].split(",")) for line in lines}
    assert {"ro", "nosuid", "noexec"} <= options["/tmp/bound"]
    assert {"rw", "nosuid", "nodev", "size=1024k", "mode=1750"} <= options["/tmp/memory"]


def test_masked_and_read_only_paths(inside: Runtime) -> None:
    for path in MASKED:
        # A file is empty then, a folder has nothing in it; what the guest lacks is no path.
        assert (
            ask(
                inside,
                f"cat {path} 2>/dev/null; ls -A {path} 2>/dev/null | grep -vx {path}",
                check=False,
            )
            == ""
        )
    for path in READ_ONLY:
        where = ask(inside, f"test -e {path} && grep ' {path} ' /proc/mounts", check=False)
        assert not where or where.split()[3].split(",")[0] == "ro"
    assert (
        "Read-only"
        in inside.call(
            "exec", "valid", "sh", "-c", "echo x > /proc/sys/kernel/domainname", check=False
        ).stderr
    )


def test_kernel_settings(inside: Runtime) -> None:
    assert ask(inside, "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax").split() == [
        "1",
        "65000",
    ]


def test_a_changed_config_changes_nothing(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """runtime-tools: config_updates_without_affect."""
    runtime.create(bundle.run("sh", "-c", "exit 7"), name)
    bundle.run("sh", "-c", "exit 8")
    (bundle.folder / "config.json").write_text("{")
    runtime.call("start", name)
    runtime.wait_for_status(name, "stopped")
    runtime.call("delete", name)
    bundle.run("sh", "-c", "exit 9")
    assert runtime.call("run", "-b", str(bundle.folder), name, check=False).returncode == 9


def test_unknown_properties_are_ignored(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """runtime-tools: misc_props."""
    bundle.spec["unknown"] = {"a": [1]}
    bundle.spec["process"]["unknown"] = True
    bundle.spec["linux"]["unknown"] = "x"
    bundle.run("true")
    assert runtime.call("run", "-b", str(bundle.folder), name).returncode == 0


def test_a_kill_without_effect(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """runtime-tools: kill_no_effect; a container that has stopped stays as it is."""
    runtime.create(bundle.run("true"), name)
    runtime.call("start", name)
    runtime.wait_for_status(name, "stopped")
    before = runtime.state(name)
    assert runtime.call("kill", name, "KILL", check=False).returncode == 1
    assert runtime.state(name) == before


def test_a_start_without_a_program(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """runtime-tools: start; a process that cannot be is an error of create or start."""
    bundle.run("no-such-program")
    refused = runtime.call("create", "-b", str(bundle.folder), name, check=False)
    if refused.returncode == 0:
        refused = runtime.call("start", name, check=False)
    assert refused.returncode == 1
    assert "no-such-program" in refused.stderr


def test_only_the_same_root_deletes(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """runtime-tools: delete_only_create_resources."""
    runtime.create(bundle.run("sleep", "1000"), name)
    other = Runtime(tmp_path)
    assert "container does not exist" in other.call("delete", name, check=False).stderr
    assert json.loads(runtime.call("list", "-f", "json").stdout)
    assert runtime.status(name) == "created"


def without(spec: dict[str, Any], *kinds: str) -> None:
    linux = spec["linux"]
    linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in kinds]


@pytest.mark.parametrize(
    ("setting", "missing", "said"),
    [
        ("kernel.hostname", (), "conflicts with the OCI"),
        ("kernel/hostname", (), "conflicts with the OCI"),
        ("kernel.hostname", ("uts",), "is not in a separate kernel namespace"),
        ("kernel.domainname", ("uts",), "is not in a separate kernel namespace"),
        ("vm.swappiness", (), "is not in a separate kernel namespace"),
        ("kernel.msgmax", ("ipc",), "is not allowed in the hosts ipc namespace"),
        ("fs.mqueue.msg_max", ("ipc",), "is not allowed in the hosts ipc namespace"),
        ("net.ipv4.ip_forward", ("network",), "not allowed in host network namespace"),
        ("", ("uts",), "unable to set hostname without a private UTS namespace"),
    ],
)
def test_settings_of_others_are_refused_in_runcs_words(
    runtime: Runtime,
    bundle: Bundle,
    name: str,
    tmp_path: Path,
    setting: str,
    missing: tuple[str, ...],
    said: str,
) -> None:
    without(bundle.spec, *missing)
    bundle.spec["hostname"] = "" if setting else "valid"
    bundle.spec["linux"]["sysctl"] = {setting: "1"} if setting else {}
    bundle.run("true")
    words = ("create", "-b", str(bundle.folder), name)
    runc = run_engine(["runc", "--root", str(tmp_path / "runc"), *words], check=False)
    ours = runtime.call(*words, check=False)
    assert (runc.returncode, ours.returncode) == (1, 1)
    text = runc.stderr.partition("runc create failed: ")[2].strip()
    assert said in text
    assert ours.stderr.strip().endswith(text)


def test_the_domain_has_no_field_and_is_set_as_with_runc(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    """Docker's ``--domainname`` is this."""
    bundle.spec["linux"]["sysctl"] = {"kernel.domainname": "example.org", "kernel/shmmni": "99"}
    bundle.run("cat", "/proc/sys/kernel/domainname", "/proc/sys/kernel/shmmni")
    words = ("run", "-b", str(bundle.folder), name)
    told = run_engine(["runc", "--root", str(tmp_path / "runc"), *words]).stdout
    assert told == "example.org\n99\n"
    assert runtime.call(*words).stdout == told
