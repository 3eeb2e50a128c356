"""What programs meet in shared folders: as with runc, but for what docs/storage.md names."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import file_semantics
from tests.support.configuration import write_configuration
from tests.support.debian_root import debian_root
from tests.support.ids import make_id
from tests.support.machine_versions import C_VIRTIOFSD
from tests.support.runtime import Bundle, Runtime
from tools.steps import CHECKOUT

PAGE = Path(CHECKOUT, "docs", "storage.md")
PLACES = {"root file system": "/tmp/work", "volume": "/volume/work"}
SCRIPT = "/semantics.py"
LONGEST_CELL = 60
# What containers of Docker and containerd have.
CAPABILITIES = [
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_MKNOD", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
    "CAP_SETUID", "CAP_SYS_CHROOT",
]  # fmt: skip
LIMITS = subprocess.run(["which", "prlimit"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system of Debian, which no test changes."""
    folder = tmp_path_factory.mktemp("debian")
    folder.chmod(0o755)
    with tarfile.open(debian_root(("python3-minimal", "libpython3-stdlib"))) as archive:
        archive.extractall(folder)
    return folder


class Box:
    """A container's bundle with a layer of its own over the image, and a volume."""

    def __init__(self, folder: Path, image: Path) -> None:
        for name in ("upper", "work", "root", "volume"):
            (folder / name).mkdir(parents=True)
        layers = f"lowerdir={image},upperdir={folder}/upper,workdir={folder}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "-o", layers, "kata", folder / "root"], check=True
        )
        self.root = folder / "root"
        self.volume = folder / "volume"
        self.bundle = Bundle(folder / "bundle", self.root)
        process = self.bundle.spec["process"]
        process["env"] = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        self.allow()
        self.bundle.spec["mounts"] += [
            _bind(str(self.volume), "/volume"),
            _bind(file_semantics.__file__, SCRIPT),
        ]

    def allow(self, *more: str) -> None:
        """Give the container capabilities, Docker's and some more."""
        kinds = ("bounding", "effective", "permitted")
        self.bundle.spec["process"]["capabilities"] = {
            kind: [*CAPABILITIES, *more] for kind in kinds
        }

    def python(self, *args: str) -> Box:
        """Have a program of Python's to run."""
        self.bundle.run("python3", *args)
        return self

    def close(self) -> None:
        subprocess.run(["umount", self.root], check=True)


def _bind(source: str, destination: str) -> dict[str, object]:
    options = ["rbind", "rw"]
    return {"destination": destination, "type": "bind", "source": source, "options": options}


@pytest.fixture
def box(debian: Path) -> Iterator[Box]:
    with tempfile.TemporaryDirectory(prefix="kata-files-", dir="/var/tmp") as folder:
        made = Box(Path(folder), debian)
        yield made
        made.close()


def run_kata(runtime: Runtime, box: Box) -> str:
    return _output(runtime.argv("run", "-b", str(box.bundle.folder), make_id("files")))


def run_runc(box: Box) -> str:
    name = make_id("files")
    # runc's own folder is shared with whoever else uses it.
    with tempfile.TemporaryDirectory(prefix="runc-") as state:
        return _output(["runc", "--root", state, "run", "-b", str(box.bundle.folder), name])


def _output(argv: list[str]) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def observe(debian: Path, runtime: Runtime | None) -> dict[str, dict[str, str]]:
    """Return what each probe said in each place; without a runtime, with runc."""
    with tempfile.TemporaryDirectory(prefix="kata-files-", dir="/var/tmp") as folder:
        box = Box(Path(folder), debian)
        script = "".join(
            f"print('# {place}', flush=True);"
            f"subprocess.run(['python3', '{SCRIPT}', '{path}'], check=True);"
            for place, path in PLACES.items()
        )
        box.python("-c", f"import subprocess;{script}")
        try:
            text = run_kata(runtime, box) if runtime else run_runc(box)
        finally:
            box.close()
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            place = found.setdefault(line[2:], {})
        else:
            name, _, answer = line.partition(": ")
            if name == "in a group's folder":
                more, _, answer = answer.partition(": ")
                name = f"{name}: {more}"
            place[name] = answer
    return found


@pytest.fixture(scope="module")
def expected(debian: Path) -> dict[str, dict[str, str]]:
    return observe(debian, None)


def read_table(column: int) -> dict[str, str]:
    """Return what the page says differs, by its rows' first words."""
    lines = PAGE.read_text().partition("| call |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[column] for row in rows if row[column] != "as with runc"}


def describe_differences(
    found: dict[str, dict[str, str]], expected: dict[str, dict[str, str]]
) -> dict[str, str]:
    """Return what differs in both places, or with the place's name in one, in the page's words."""
    assert {place: set(answers) for place, answers in found.items()} == {
        place: set(answers) for place, answers in expected.items()
    }
    differences: dict[str, str] = {}
    for name in next(iter(expected.values())):
        texts = {
            place: _compare(answers[name], expected[place][name])
            for place, answers in found.items()
            if answers[name] != expected[place][name]
        }
        if set(texts) == set(expected) and len(set(texts.values())) == 1:
            differences[name] = next(iter(texts.values()))
        else:
            differences |= {f"{name} ({place})": text for place, text in texts.items()}
    return differences


def _compare(answer: str, wanted: str) -> str:
    text = f"`{answer}`, not `{wanted}`"
    return text if len(text) < LONGEST_CELL else "wrong"


def test_files_are_as_with_runc_but_for_what_is_documented(
    debian: Path, runtime: Runtime, expected: dict[str, dict[str, str]]
) -> None:
    found = describe_differences(observe(debian, runtime), expected)
    assert found == read_table(1), json.dumps(found)


def test_files_of_the_c_virtiofsd_are_as_documented(
    debian: Path, runtime: Runtime, tmp_path: Path, expected: dict[str, dict[str, str]]
) -> None:
    configuration = write_configuration(tmp_path / "c.toml", virtio_fs_daemon=C_VIRTIOFSD)
    other = Runtime(runtime.root.parent, configuration)
    found = describe_differences(observe(debian, other), expected)
    assert found == read_table(2), json.dumps(found)


def test_the_hosts_attributes_are_out_of_reach(runtime: Runtime, box: Box) -> None:
    """trusted.* and security.* are kept under another name, and those of the host not shown."""
    shared = box.volume / "file"
    shared.touch()
    os.setxattr(shared, "trusted.hosts", b"1")
    os.setxattr(shared, "security.hosts", b"1")
    box.allow("CAP_SYS_ADMIN")
    script = """
import errno, os
os.setxattr("/volume/file", "trusted.guests", b"2")
os.setxattr("/volume/file", "security.guests", b"2")
print(sorted(os.listxattr("/volume/file")))
for name in ("trusted.hosts", "security.hosts"):
    try: print(os.getxattr("/volume/file", name))
    except OSError as error: print(errno.errorcode[error.errno])
try: os.setxattr("/volume/file", "user.virtiofs.trusted.hosts", b"3")
except OSError as error: print(errno.errorcode[error.errno])
"""
    lines = run_kata(runtime, box.python("-c", script)).splitlines()
    assert lines[0] == "['security.guests', 'trusted.guests']"
    assert lines[1:3] == ["ENODATA", "ENODATA"]
    assert lines[3] == "EPERM"
    assert sorted(os.listxattr(shared)) == [
        "security.hosts",
        "trusted.hosts",
        "user.virtiofs.security.guests",
        "user.virtiofs.trusted.guests",
    ]
    assert os.getxattr(shared, "trusted.hosts") == b"1"


def test_an_image_has_file_capabilities(runtime: Runtime, box: Box) -> None:
    program = box.root / "usr/bin/python3-binds"
    program.write_bytes((box.root / "usr/bin/python3").read_bytes())
    program.chmod(0o755)
    os.setxattr(program, "security.capability", file_semantics.CAPABILITY)
    box.bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    box.bundle.spec["process"]["capabilities"] = {"bounding": CAPABILITIES}
    box.bundle.spec["process"]["noNewPrivileges"] = False
    script = "import socket; socket.socket().bind(('127.0.0.1', 80)); print('bound')"
    box.bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "1024"}
    box.bundle.run("python3-binds", "-c", script)
    assert run_kata(runtime, box) == run_runc(box) == "bound\n"


def test_more_files_than_descriptors(runtime: Runtime, box: Box) -> None:
    """A volume stays where it is mounted when virtiofsd may open fewer files than it has."""
    for number in range(6000):
        (box.volume / f"file{number}").touch()
    script = """
import os
for _ in range(2):
    found = sum(os.stat(entry.path).st_nlink for entry in os.scandir("/volume"))
open("/volume/afterwards", "w").close()
print(found, os.path.ismount("/volume"))
"""
    name = make_id("more files")
    output = box.bundle.folder / "output"
    create = runtime.argv("create", "-b", str(box.python("-c", script).bundle.folder), name)
    with open(output, "wb") as file:
        limited = [LIMITS.strip(), "--nofile=2048:2048", *create]
        subprocess.run(limited, stdin=subprocess.DEVNULL, stdout=file, stderr=file, check=True)
    runtime.call("start", name)
    runtime.wait_for_status(name, "stopped")
    log = (runtime.root / name / "log").read_text()
    runtime.call("delete", name)
    assert output.read_text() == "6000 True\n"
    assert log.count("large volumes can have more files than virtiofsd may open") == 1
    assert (box.volume / "afterwards").exists()
