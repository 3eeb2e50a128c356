"""What is seen through a container's pid: its own files, and nothing of the host; as with runc."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oci.conftest import BundleMaker
from tests.support.ids import make_id
from tests.support.leaks import find_stand_ins
from tests.support.runtime import Bundle, Runtime, Supervised, read_file, unpack_busybox, wait_until

pytestmark = pytest.mark.e2e

KINDS = ("mnt", "pid", "ipc", "uts", "net", "cgroup")
UP = "../" * 12
MASKED = ("/hidden/file", "/hidden/folder")


class Seen:
    """A container that runs with both runtimes, from the same bundle."""

    def __init__(self, folder: Path, runtime: Runtime) -> None:
        self.folder = folder
        self.marker = folder / "hosts"
        self.marker.write_text("of the host")
        self.runc_root = folder / "runc"
        root = folder / "rootfs"
        root.mkdir()
        unpack_busybox(root)
        root.chmod(0o755)
        self.root = root
        self.bundle = Bundle(folder / "bundle", root)
        self._furnish()
        self.bundle.run("sleep", "100000")
        self.name = f"seen-{os.getpid()}"
        runtime.create(self.bundle, self.name)
        runtime.call("start", self.name)
        self.pid = runtime.pid(self.name)
        pid_file = folder / "runc.pid"
        run = ("run", "-d", "--pid-file", str(pid_file), "-b", str(self.bundle.folder), self.name)
        self.runc(*run)
        self.runcs = int(pid_file.read_text())

    def _furnish(self) -> None:
        """Make volumes, and links that lead out of the image and the volumes."""
        (self.root / "hidden/folder").mkdir(parents=True)
        for name in MASKED:
            (
                self.root / name[1:] / "inner" if "folder" in name else self.root / name[1:]
            ).write_text("secret")
        (self.root / "target").symlink_to("/elsewhere")
        (self.root / "elsewhere").mkdir()
        for volume in ("rw", "ro", "late"):
            path = self.folder / volume
            path.mkdir()
            (path / "file").write_text(f"in {volume}")
            (path / "out").symlink_to(f"{UP}{self.marker}")
            (path / "absolute").symlink_to(self.marker)
            # Also where volumes are mounted: the last lies below a link of the one before.
            (path / "away").symlink_to(f"{UP}{self.folder}")
        (self.folder / "rw/folder").mkdir()
        (self.root / "out").symlink_to(f"{UP}{self.marker}")
        (self.root / "absolute").symlink_to(self.marker)
        self._mount("rw", "/rw", "rw")
        self._mount("ro", "/ro", "ro")
        self._mount("late", "/target/late", "rw")
        self._mount("ro/file", "/rw/bound", "rw")
        # As distributions' images have /etc/resolv.conf.
        (self.root / "etc/dangling").symlink_to("../made/deep/file")
        self._mount("ro/file", "/etc/dangling", "rw")
        self._mount("late", "/made/as/well", "ro")
        self.bundle.spec["mounts"].append(
            {"destination": "/memory", "type": "tmpfs", "source": "tmpfs", "options": []}
        )
        self.bundle.spec["hostname"] = "seen"
        self.bundle.spec["linux"]["maskedPaths"] += MASKED
        self.bundle.spec["linux"]["readonlyPaths"] += ["/rw/folder"]

    def _mount(self, name: str, target: str, option: str) -> None:
        mount = {"destination": target, "type": "bind", "source": str(self.folder / name)}
        self.bundle.spec["mounts"].append({**mount, "options": ["rbind", option]})

    def runc(self, *words: str) -> None:
        nowhere = subprocess.DEVNULL
        argv = ["runc", "--root", str(self.runc_root), *words]
        subprocess.run(argv, check=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)

    def ask(self, script: str, pid: int = 0) -> str:
        """Return what a program says that has entered, its errors too."""
        return enter(pid or self.pid, script)


def enter(pid: int, script: str) -> str:
    """Return what a program says in the namespaces of a process."""
    argv = ["nsenter", "-t", str(pid), "-m", "-p", "-u", "-i", "/bin/sh", "-c", script]
    environ = {"PATH": "/usr/bin:/bin"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environ)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def seen(shared_runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    made = Seen(tmp_path_factory.mktemp("seen"), shared_runtime)
    yield made
    made.runc("delete", "--force", made.name)
    shared_runtime.call("delete", "--force", made.name)


@pytest.mark.parametrize(
    "script",
    [
        "hostname",
        "ls -a /",
        "ls -a /.. /../..",
        "pwd; cd ..; pwd",
        "ls -a /rw /ro /elsewhere /elsewhere/late /target/late/",
        "cat /etc/dangling /made/deep/file; ls -la /made/deep /made/as/well | cut -c 1-12",
        "cat /rw/file /ro/file /elsewhere/late/file /rw/bound",
        "echo x > /ro/file; echo $?; touch /ro/new; echo $?",
        "echo x > /rw/folder/new; echo $?",
        "cat /hidden/file; ls -A /hidden/folder; echo x > /hidden/folder/new; echo $?",
        "cat /out /absolute /rw/out /rw/absolute /ro/out /target/late/out",
        "ls -a /rw/away /ro/away/",
        "ls /proc/1/root/ /proc/1/cwd/ /proc/1/cwd/.. /proc/1/task/1/root/",
        "ls -d /proc/[0-9]* | head -1; kill -0 2; ls -d /proc/[0-9]* | wc -l",
        "ls /proc/1/root/proc/1/root/..",
        "cat /proc/1/comm; echo $(tr '\\0' ' ' < /proc/1/cmdline)",
        "echo x > /proc/sys/kernel/hostname; echo $?",
        "wc -c < /proc/kcore; ls -A /proc/acpi; cat /proc/keys /proc/timer_list",
        "ls -l /dev | cut -c 1-40; cat /dev/null; head -c 4 /dev/zero | wc -c; ls -A /dev/pts",
        "cat /proc/net/dev | wc -l",
    ],
)
def test_who_enters_sees_the_containers(seen: Seen, script: str) -> None:
    assert seen.ask(script) == seen.ask(script, seen.runcs)


def test_files_by_the_pids_root(seen: Seen) -> None:
    """Also what engines do, who resolve links themselves: they come by descriptors."""
    root = Path(f"/proc/{seen.pid}/root")
    assert sorted(os.listdir(root)) == sorted(os.listdir(f"/proc/{seen.runcs}/root"))
    assert (root / "rw/file").read_text() == "in rw"
    assert (root / "hidden/file").read_text() == ""
    (root / "rw/made").write_text("by the host")
    assert (seen.folder / "rw/made").read_text() == "by the host"
    with pytest.raises(OSError, match="Read-only"):
        (root / "ro/made").write_text("")
    # What lies in the guest's memory is not there, and nothing is taken for it.
    for name in ("memory", "dev/shm", "sys"):
        assert os.listdir(root / name) in ([], ["fs"])
        with pytest.raises(OSError, match="Read-only"):
            (root / name / "made").write_text("")


def test_namespaces_are_its_own(seen: Seen, shared_runtime: Runtime) -> None:
    for kind in KINDS:
        ours, its = (os.readlink(f"/proc/{pid}/ns/{kind}") for pid in ("self", seen.pid))
        assert ours != its, kind
    assert os.readlink(f"/proc/{seen.pid}/ns/user") == os.readlink("/proc/self/ns/user")


@pytest.mark.parametrize(
    "way",
    [
        "", "/..", f"/{UP}", "/proc/1/root", "/proc/1/root/..", "/proc/1/cwd", "/proc/1/cwd/..",
        "/proc/1/task/1/root", "/proc/1/task/1/cwd", "/proc/1/exe", "/proc/1/exe/..",
        "/proc/self/root", "/proc/self/cwd", "/proc/self/cwd/../..", "/proc/thread-self/root",
        "/rw/away", "/rw/..", "/proc/[0-9]*/root", "/proc/[0-9]*/cwd", "/proc/[0-9]*/fd/*",
        "/proc/[0-9]*/task/*/fd/*", "/proc/[0-9]*/fd/*/..", "/proc/[0-9]*/map_files/*",
        "/dev/fd/*", "/proc/1/root/proc/self/root",
    ],
)  # fmt: skip
def test_no_way_leads_to_the_host(seen: Seen, way: str) -> None:
    assert seen.marker.exists()
    assert seen.ask(f"for f in {way}{seen.marker}; do cat $f && echo found; done 2>&-") == ""


def test_the_stand_in_holds_no_file_of_the_host(seen: Seen) -> None:
    fds = Path(f"/proc/{seen.pid}/fd")
    held = {os.readlink(fd).split(":")[0] for fd in fds.iterdir()}
    assert held <= {"/null", "/dev/null", "pipe", "socket"}
    # The interpreter is the host's, and nobody changes it from here (CVE-2019-5736).
    program = os.open(f"/proc/{seen.pid}/exe", os.O_PATH)
    assert os.fstatvfs(program).f_flag & os.ST_RDONLY
    os.close(program)
    environ = Path(f"/proc/{seen.pid}/environ").read_bytes()
    assert environ.startswith(b"PATH=")
    assert environ.count(b"=") <= 2  # Python adds its locale


def test_an_exec_is_beside_its_container(seen: Seen, shared_runtime: Runtime) -> None:
    pid_file = seen.folder / "exec.pid"
    process = shared_runtime.begin("exec", "--pid-file", str(pid_file), seen.name, "sleep", "4716")
    pid = int(read_file(pid_file, ""))
    wait_until(lambda: Path(f"/proc/{pid}/root/rw/file").exists())
    for kind in KINDS[1:]:
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{seen.pid}/ns/{kind}")
    assert Path(f"/proc/{pid}/root/rw/file").read_text() == "in rw"
    assert not Path(f"/proc/{pid}/root{seen.marker}").exists()
    assert not Path(f"/proc/{pid}/cwd{seen.marker}").exists()
    assert "sleep 4716" in seen.ask("ps")
    os.kill(pid, signal.SIGKILL)
    assert process.wait(20) == 137
    wait_until(lambda: "sleep 4716" not in seen.ask("ps"))


@pytest.mark.parametrize("where", ["rootfs", "rw"])
@pytest.mark.parametrize("exists", [False, True])
def test_the_guest_sees_within_a_second_what_the_host_writes(
    seen: Seen, shared_runtime: Runtime, where: str, exists: bool
) -> None:
    """A program in the guest that looks all the time, so that what was there is cached."""
    inner = "/news" if where == "rootfs" else "/rw/news"
    file = Path(f"/proc/{seen.pid}/root{inner}")
    if exists:
        file.write_text("old")
    script = f"echo up; until grep -q new {inner}; do usleep 20000; done 2>&-; echo seen"
    watcher = subprocess.Popen(
        shared_runtime.argv("exec", seen.name, "sh", "-c", script), stdout=subprocess.PIPE
    )
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"up\n"
    time.sleep(0.5)
    file.write_text("new")
    wrote = time.monotonic()
    assert watcher.stdout.readline() == b"seen\n"
    assert time.monotonic() - wrote < 1.5  # 1 s, and the way of the output
    assert watcher.wait(20) == 0
    watcher.stdout.close()
    file.unlink()


def test_a_pods_containers_share_what_they_are_told_to(
    runtime: Runtime, make_bundle: BundleMaker, name: str
) -> None:
    pod = make_bundle()
    runtime.start_pod(pod, name)
    first = runtime.pid(name)
    member = make_bundle().join(name)
    member.spec["linux"]["namespaces"] = [
        {"type": kind, "path": f"/proc/{first}/ns/{file}"} if shared else {"type": kind}
        for kind, file, shared in (
            ("pid", "pid", True), ("ipc", "ipc", True), ("uts", "uts", True),
            ("network", "net", True), ("mount", "mnt", False), ("cgroup", "cgroup", False),
        )
    ]  # fmt: skip
    other = make_id("member")
    runtime.create(member.run("sleep", "1000"), other)
    runtime.call("start", other)
    second = runtime.pid(other)
    for kind in KINDS:
        same = os.readlink(f"/proc/{first}/ns/{kind}") == os.readlink(f"/proc/{second}/ns/{kind}")
        assert same == (kind in ("pid", "ipc", "uts", "net")), kind
    assert "sleep 1000" in enter(first, "ps")
    runtime.call("delete", "--force", other)
    runtime.call("delete", "--force", name)


def test_a_container_in_anothers_machine_has_no_network_of_the_host(
    runtime: Runtime, make_bundle: BundleMaker, name: str
) -> None:
    runtime.start_pod(make_bundle(), name)
    member = make_bundle().join(name)
    spaces = member.spec["linux"]["namespaces"]
    member.spec["linux"]["namespaces"] = [s for s in spaces if s["type"] != "network"]
    other = make_id("member")
    runtime.create(member.run("sleep", "1000"), other)
    pids = (runtime.pid(name), runtime.pid(other))
    assert len({os.readlink(f"/proc/{pid}/ns/net") for pid in pids}) == 1
    assert os.readlink(f"/proc/{pids[1]}/ns/net") != os.readlink("/proc/self/ns/net")
    runtime.call("delete", "--force", other)
    runtime.call("delete", "--force", name)


def test_what_hooks_have_mounted_is_there(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path
) -> None:
    given, root = tmp_path / "given", tmp_path / "rootfs"
    given.mkdir()
    (given / "file").write_text("given")
    root.mkdir()
    unpack_busybox(root)
    root.chmod(0o755)
    (root / "hooked").mkdir()
    bundle.spec["root"]["path"] = str(root)
    script = f"mount --bind {given} {root}/hooked"
    bundle.spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    try:
        runtime.create(bundle.run("sleep", "1000"), name)
        assert Path(f"/proc/{runtime.pid(name)}/root/hooked/file").read_text() == "given"
        runtime.call("delete", "--force", name)
    finally:
        subprocess.run(["umount", f"{root}/hooked"], check=True)


def test_a_read_only_root(runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    mount = {"destination": "/tmp", "type": "bind", "source": str(volume)}
    bundle.spec["mounts"].append({**mount, "options": ["bind", "rw"]})
    bundle.spec["root"]["readonly"] = True
    runtime.create(bundle.run("sleep", "1000"), name)
    root = Path(f"/proc/{runtime.pid(name)}/root")
    with pytest.raises(OSError, match="Read-only"):
        (root / "not-made").write_text("")
    (root / "tmp/made").write_text("")
    assert (volume / "made").exists()


@pytest.mark.parametrize(
    ("option", "is_seen"), [("rslave", True), ("rprivate", False)], ids=lambda value: str(value)
)
def test_what_the_host_mounts_later(
    runtime: Runtime, bundle: Bundle, name: str, tmp_path: Path, option: str, is_seen: bool
) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    subprocess.run(["mount", "--bind", str(volume), str(volume)], check=True)
    subprocess.run(["mount", "--make-shared", str(volume)], check=True)
    try:
        (volume / "later").mkdir()
        mount = {"destination": "/volume", "type": "bind", "source": str(volume)}
        bundle.spec["mounts"].append({**mount, "options": ["rbind", option]})
        runtime.create(bundle.run("sleep", "1000"), name)
        subprocess.run(["mount", "-t", "tmpfs", "none", str(volume / "later")], check=True)
        (volume / "later/file").write_text("")
        file = Path(f"/proc/{runtime.pid(name)}/root/volume/later/file")
        assert file.exists() == is_seen
        # Nothing travels back.
        enter(runtime.pid(name), "mkdir /volume/inner; mount -t tmpfs none /volume/inner")
        assert not os.path.ismount(volume / "inner")
        runtime.call("delete", "--force", name)
    finally:
        subprocess.run(["umount", "-R", str(volume)], check=True)


def test_the_end_takes_everything_that_has_entered(
    runtime: Runtime, bundle: Bundle, name: str
) -> None:
    """As with runc: the first process of a pid namespace takes the others along."""
    process = Supervised(runtime, bundle.run("sleep", "1000"), name)
    runtime.call("start", name)
    pid = runtime.pid(name)
    inside = subprocess.Popen(
        ["nsenter", "-t", str(pid), "-m", "-p", "/bin/sh", "-c", "echo; sleep 1000"],
        stdout=subprocess.PIPE,
    )
    assert inside.stdout is not None
    inside.stdout.readline()
    began = time.monotonic()
    runtime.call("kill", name, "KILL")
    assert process.finish() == ("", 137)
    assert time.monotonic() - began < 5
    assert inside.wait(5) != 0
    inside.stdout.close()
    runtime.call("delete", name)
    assert pid not in find_stand_ins()
