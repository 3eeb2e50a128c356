"""Build a guest kernel without modules from Debian's source and the options in ``kernel.config``.

The order of work: look for the tools, ask apt for the source, compare the key, download, unpack,
configure, check the configuration, compile, publish.  The kernel is built into the folder of
downloads and copied from there, so that one build serves every folder with images.  Called by
``main``.  Nothing of it is installed; the tools to build with are the machine's.
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
    shelf, built = store.kernel_shelf(request.output), store.kernel_shelf(request.cache)
    manifest = store.load_manifest(shelf)
    if manifest.get("key") == key and not request.force:
        progress(f"kernel in {request.output} is up to date")
        return manifest
    with store.locked(built):
        if store.load_manifest(built).get("key") != key or request.force:
            with store.scratch_folder(built) as scratch:
                made = _build(source, wanted, request, scratch, progress)
                manifest = _describe(made, source) | {"key": key}
                store.write_manifest(built, made, manifest)
                store.publish_version(built, made, key)
            store.prune_versions(built)
        if os.path.realpath(request.output) != os.path.realpath(request.cache):
            _copy(built, shelf, key)
    return store.load_manifest(shelf)


def _build(
    source: packages.Package,
    wanted: Mapping[str, str],
    request: KernelRequest,
    scratch: str,
    progress: Callable[[str], None],
) -> str:
    """Return a folder below ``scratch`` with the kernel and its configuration."""
    progress(f"fetching {source.name} {source.version}")
    tree, made = os.path.join(scratch, "source"), os.path.join(scratch, "made")
    unpack_source(source, request.cache, tree)
    progress("configuring")
    config = configure(tree, wanted)
    progress(f"compiling with {request.jobs} jobs, which takes minutes")
    _make(tree, [f"-j{request.jobs}", "vmlinux"], _COMPILE_TIMEOUT_S)
    os.mkdir(made)
    # The symbols that the kernel itself prints are in its read-only data.
    target = os.path.join(made, store.OWN_KERNEL)
    _run(
        ["strip", "--strip-all", "-o", target, os.path.join(tree, "vmlinux")], _CONFIGURE_TIMEOUT_S
    )
    with open(os.path.join(made, store.OWN_KERNEL_CONFIG), "w", encoding="utf-8") as file:
        file.write(config)
    shutil.copy(os.path.join(tree, "include/config/kernel.release"), scratch)
    return made


def _copy(source: store.Shelf, target: store.Shelf, key: str) -> None:
    with store.locked(target):
        with store.scratch_folder(target) as scratch:
            made = os.path.join(scratch, "made")
            os.mkdir(made)
            for name in source.names:
                shutil.copy(os.path.join(source.folder, name), made)
            store.publish_version(target, made, key)
        store.prune_versions(target)


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
    name = next((name for name in meta.depends if name.startswith(f"{_META_PACKAGE}-")), "")
    if not name:
        raise KataError(f"find source: {_META_PACKAGE} depends on no version", Code.NOT_FOUND)
    return packages.find_packages([name], suite)[0]


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


def _describe(made: str, source: packages.Package) -> dict[str, object]:
    """Return what the manifest says of a kernel that was built into ``made``."""
    contents = {}
    for name in (store.OWN_KERNEL, store.OWN_KERNEL_CONFIG):
        with open(os.path.join(made, name), "rb") as file:
            contents[name] = file.read()
    if not elf.has_pvh_entry(contents[store.OWN_KERNEL]):
        raise KataError("build kernel: it has no PVH entry (CONFIG_PVH)", Code.FAILED_PRECONDITION)
    with open(os.path.join(os.path.dirname(made), "kernel.release"), encoding="utf-8") as file:
        version = file.read().strip()
    return {
        "kernel": {"version": version, "form": "vmlinux", "boots_from": ["initrd", "image"]},
        "packages": {source.name: source.version},
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
