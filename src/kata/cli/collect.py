"""kata-runtime collect: an archive for a report of a fault, secrets left out."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
import time
from dataclasses import asdict

from kata.base.errors import Code, KataError, describe_error
from kata.base.statefolder import ROOT, SOCKET
from kata.base.version import VERSION
from kata.cli import check, env, logs
from kata.cli.management import ask
from kata.cli.oci.list import list_states
from kata.cli.redact import GONE, redact
from kata.config.load import find_config_path, find_drop_ins, load_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

_FOLDER = "kata-collect"
# Of a long file the end is kept, where the fault is.
_MAX_BYTES = 4 << 20
_TIMEOUT_S = 10.0
_HOST_FILES = (
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/version",
    "/proc/self/cgroup",
    "/etc/os-release",
    "/etc/containerd/config.toml",
    "/etc/containers/containers.conf",
    "/etc/docker/daemon.json",
)
# Of a container; its annotations are the engine's and may be anything.
_SHOWN = ("id", "pid", "status", "bundle", "created")
_ABOUT = f"""\
What kata-runtime collect {VERSION} has found.

Left out: what the containers print, their environments and specifications, and whatever looks
like a secret ({GONE} stands for it).  Look through it before you give it away.

check.json           what this host offers and lacks
env.json             versions, and the configuration that counts
containers.json      containers of this command line
host/                files of the host
configuration/       files of the configuration
factory.log          templates and machines that wait
sandboxes/ID/        logs, steps of the start, metrics
failures.txt         what could not be collected, and why
"""


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Write the archive, and say where it is."""
    target = options.text("output") or time.strftime("kata-collect-%Y%m%d-%H%M%S.tar.gz")
    data = make_archive(collect(settings))
    if target == "-":
        sys.stdout.buffer.write(data)
        return 0
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(data)
    except OSError as error:
        raise KataError(f"write {target}: {error.strerror}", Code.FAILED_PRECONDITION) from error
    print(target)
    return 0


def collect(settings: Settings) -> dict[str, str]:
    """Return the files by their names, secrets left out."""
    files = {"about.txt": _ABOUT}
    failures: list[str] = []
    for name, read in _list_pieces(settings):
        try:
            files[name] = redact(read())
        except (KataError, OSError, ValueError) as error:
            failures.append(f"{name}: {describe_error(error)}")
    files["failures.txt"] = "".join(f"{line}\n" for line in failures)
    return files


def make_archive(files: dict[str, str]) -> bytes:
    """Return a compressed tar archive of texts."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{_FOLDER}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(time.time()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return data.getvalue()


def _list_pieces(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    explicit = settings.config_path
    yield "check.json", lambda: _render([asdict(each) for each in check.find_all(explicit)])
    yield "env.json", lambda: _render(env.describe(load_config(explicit or None, os.environ)))
    yield "containers.json", lambda: _render(_list_containers(settings.root))
    yield "factory.log", lambda: _read(f"{ROOT}/factory.log")
    for path in _HOST_FILES:
        if os.path.exists(path):
            yield f"host{path}", lambda path=path: _read(path)  # type: ignore[misc]
    for path in _list_configuration(explicit):
        yield f"configuration{path}", lambda path=path: _read(path)  # type: ignore[misc]
    for name in _list_sandboxes():
        yield from _list_of_sandbox(name, settings)


def _list_of_sandbox(name: str, settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    folder, place = f"{ROOT}/{name}", f"sandboxes/{name}"
    for file in filter(lambda file: os.path.exists(f"{folder}/{file}"), ("record.json", "trace")):
        yield f"{place}/{file}", lambda file=file: _read(f"{folder}/{file}")  # type: ignore[misc]
    yield f"{place}/logs", lambda: _read_logs(name, settings)
    if os.path.exists(f"{folder}/{SOCKET}"):
        for path in ("/metrics", "/sandbox"):
            yield f"{place}{path}", lambda path=path: _ask(name, path)  # type: ignore[misc]


def _list_containers(root: str) -> list[dict[str, object]]:
    return [{key: state[key] for key in _SHOWN} for state in list_states(root)]


def _list_configuration(explicit: str) -> list[str]:
    try:
        path = find_config_path(explicit or None, os.environ)
    except KataError:
        return []  # which env.json tells
    return [path, *find_drop_ins(path)]


def _list_sandboxes() -> list[str]:
    try:
        names = sorted(os.listdir(ROOT))
    except FileNotFoundError:
        return []
    return [name for name in names if name[0] != "." and os.path.isdir(f"{ROOT}/{name}")]


def _read_logs(name: str, settings: Settings) -> str:
    lines = logs.collect(name, ROOT, settings.root)
    return "".join(f"{line.source:8} {line.text}\n" for line in lines)


def _ask(name: str, path: str) -> str:
    return ask(name, "GET", path, timeout_s=_TIMEOUT_S).decode("utf-8", "replace")


def _read(path: str) -> str:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size  # 0 of the kernel's files, which have no end to seek
        if size > _MAX_BYTES:
            file.seek(size - _MAX_BYTES)
        return file.read(_MAX_BYTES).decode("utf-8", "replace")


def _render(document: object) -> str:
    return json.dumps(document, indent=2) + "\n"
