"""Build a guest kernel without modules from Debian's source and the options in ``kernel.config``.

The order of work: look for the tools, ask apt for the source, compare the key, download, unpack,
configure, check the configuration, compile, publish.  Called by ``main``.  Nothing of it is
installed; the tools to build with are the machine's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import elf, kconfig, packages, store
from kata.image.inputs import DATA_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Changes whenever the same inputs would give another kernel.
_FORMAT = 1
_META_PACKAGE = "linux-source"
_UNPACK_TIMEOUT_S = 600.0
_CONFIGURE_TIMEOUT_S = 300.0
# Measured: 10 minutes on two processors.
_COMPILE_TIMEOUT_S = 4 * 3600.0
_TAIL_LINES = 15
# The bytes must not depend on who builds when and where (Documentation/kbuild/
# reproducible-builds.rst).  The time is shown by uname as it stands here.
_FIXED = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "kata",
    "KBUILD_BUILD_HOST": "kata",
    "KBUILD_BUILD_VERSION": "1",
    "LC_ALL": "C",
}
# What must be there, program or file, and the package that has it.
_TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "flex": "flex",
    "gcc": "gcc",
    "make": "make",
    "perl": "perl",
    "strip": "binutils",
    "tar": "tar",
    "xz": "xz-utils",
    "/usr/include/gelf.h": "libelf-dev",
    "/usr/include/stdio.h": "libc6-dev",
}


@dataclass(frozen=True, slots=True)
class KernelRequest:
    """What to build and where; ``config`` is a file with further options, or empty."""

    output: str
    cache: str
    jobs: int
    suite: str = ""
    config: str = ""
    force: bool = False


def build_kernel(request: KernelRequest, progress: Callable[[str], None]) -> dict[str, object]:
    """Build the kernel, unless the folder has it already; return its manifest."""
    check_tools()
    wanted = load_wanted(request.config)
    source = find_source(request.suite)
    key = kernel_key(source, wanted, _read_version("gcc"))
    shelf = store.kernel_shelf(request.output)
    with store.locked(shelf):
        manifest = store.load_manifest(shelf)
        if manifest.get("key") == key and not request.force:
            progress(f"kernel in {request.output} is up to date")
            return manifest
        with store.scratch_folder(shelf) as scratch:
            progress(f"fetching {source.name} {source.version}")
            tree = os.path.join(scratch, "source")
            unpack_source(source, request.cache, tree)
            progress("configuring")
            config = configure(tree, wanted)
            progress(f"compiling with {request.jobs} jobs, which takes minutes")
            _make(tree, [f"-j{request.jobs}", "vmlinux"], _COMPILE_TIMEOUT_S)
            made = os.path.join(scratch, "made")
            os.mkdir(made)
            manifest = _write_files(tree, made, config)
            manifest |= {"key": key, "packages": {source.name: source.version}}
            store.write_manifest(shelf, made, manifest)
            store.publish_version(shelf, made, key)
        store.prune_versions(shelf)
    return manifest


def check_tools(tools: Mapping[str, str] = _TOOLS) -> None:
    """Raise FAILED_PRECONDITION that names every package to install."""
    missing = sorted(
        package
        for name, package in tools.items()
        if not (os.path.exists(name) if name.startswith("/") else shutil.which(name))
    )
    if missing:
        raise KataError(
            f"build kernel: {', '.join(missing)} not installed",
            Code.FAILED_PRECONDITION,
            f"apt-get install --no-install-recommends {' '.join(missing)}",
        )


def load_wanted(extra: str = "") -> dict[str, str]:
    """Return the options of ``kernel.config``, with those of a file of the user's over them."""
    wanted: dict[str, str] = {}
    for path in (os.path.join(DATA_FOLDER, "kernel.config"), *([extra] if extra else ())):
        try:
            with open(path, encoding="utf-8") as file:
                wanted |= kconfig.parse_options(file.read(), path)
        except (OSError, UnicodeDecodeError) as error:
            raise KataError(f"read {path}: {error}", Code.INVALID_ARGUMENT) from error
    return wanted


def find_source(suite: str = "") -> packages.Package:
    """Return the package with the source of the suite's kernel."""
    (meta,) = packages.find_packages([_META_PACKAGE], suite)
    names = [name for name in meta.depends if name.startswith(f"{_META_PACKAGE}-")]
    return packages.find_packages(names[:1], suite)[0]


def kernel_key(source: packages.Package, wanted: Mapping[str, str], compiler: str) -> str:
    """Return a SHA-256 over everything that shapes the kernel."""
    parts = (str(_FORMAT), source.name, source.version, source.sha256, compiler)
    text = "\0".join((*parts, kconfig.render_options(wanted)))
    return hashlib.sha256(text.encode()).hexdigest()


def unpack_source(source: packages.Package, cache: str, tree: str) -> None:
    """Download the package and unpack the kernel's source, which is a file in it, to ``tree``."""
    archive = f"/usr/src/{source.name}.tar.xz"
    path = packages.download_package(source, cache)
    file = packages.read_package(path, lambda name: name == archive).get(archive)
    if file is None:
        raise KataError(f"unpack {source.name}: it has no {archive}", Code.NOT_FOUND)
    os.makedirs(tree)
    command = ["tar", "-xJ", "--strip-components=1", "--no-same-owner", "-C", tree]
    done = subprocess.run(
        command, input=file.data, capture_output=True, timeout=_UNPACK_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise KataError(f"unpack {source.name}: {done.stderr.decode(errors='replace')[-500:]}")


def configure(tree: str, wanted: Mapping[str, str]) -> str:
    """Write the kernel's configuration and return it.

    Raises FAILED_PRECONDITION that names every wanted option that did not take effect.
    """
    fragment = os.path.join(tree, "wanted.config")
    with open(fragment, "w", encoding="utf-8") as file:
        file.write(kconfig.render_options(wanted))
    _make(tree, [f"KCONFIG_ALLCONFIG={fragment}", "allnoconfig"], _CONFIGURE_TIMEOUT_S)
    with open(os.path.join(tree, ".config"), encoding="utf-8") as file:
        config = file.read()
    ignored = kconfig.list_ignored(wanted, kconfig.parse_options(config, ".config"))
    if ignored:
        raise KataError(
            f"configure kernel: {len(ignored)} options have no effect: {', '.join(ignored)}",
            Code.FAILED_PRECONDITION,
            "this source does not know them, or what they depend on is not set",
        )
    return config


def _write_files(tree: str, made: str, config: str) -> dict[str, object]:
    """Write stripped kernel and configuration; return what the manifest says of them."""
    target = os.path.join(made, store.OWN_KERNEL)
    # The symbols that the kernel itself prints are in its read-only data.
    _run(
        ["strip", "--strip-all", "-o", target, os.path.join(tree, "vmlinux")], _CONFIGURE_TIMEOUT_S
    )
    with open(target, "rb") as file:
        kernel = file.read()
    if not elf.has_pvh_entry(kernel):
        raise KataError("build kernel: it has no PVH entry (CONFIG_PVH)", Code.FAILED_PRECONDITION)
    with open(os.path.join(made, store.OWN_KERNEL_CONFIG), "w", encoding="utf-8") as file:
        file.write(config)
    with open(os.path.join(tree, "include/config/kernel.release"), encoding="utf-8") as file:
        version = file.read().strip()
    contents = {store.OWN_KERNEL: kernel, store.OWN_KERNEL_CONFIG: config.encode()}
    return {
        "kernel": {"version": version, "form": "vmlinux", "boots_from": ["initrd", "image"]},
        "compiler": _read_version("gcc"),
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
    }


def _read_version(program: str) -> str:
    return _run([program, "--version"], _CONFIGURE_TIMEOUT_S).partition("\n")[0]


def _make(tree: str, arguments: Sequence[str], timeout_s: float) -> None:
    _run(["make", "-C", tree, *arguments], timeout_s)


def _run(command: list[str], timeout_s: float) -> str:
    """Run a tool; raise KataError with the end of what it said when it fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
            env={**os.environ, **_FIXED},
        )
    except subprocess.TimeoutExpired as error:
        raise KataError(
            f"run {' '.join(command)}: no end after {timeout_s:.0f} s", Code.DEADLINE_EXCEEDED
        ) from error
    text = done.stdout.decode(errors="replace")
    if done.returncode:
        tail = "\n".join(text.splitlines()[-_TAIL_LINES:])
        raise KataError(f"run {' '.join(command)}: exit code {done.returncode}\n{tail}")
    return text
