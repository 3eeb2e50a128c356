"""Build a guest image: kernel, initrd and image of the same files, manifest.

The order of work: ask apt for versions, compare the key, download, read, lay out, write, publish.
Called by ``main``; every step that decides something is a pure function of another module.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import cpio, erofs, inputs, kernel, layout, modules, packages, python, store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMPRESS_TIMEOUT_S = 300.0
COMPRESSIONS: dict[str, tuple[str, ...]] = {
    "none": (),
    # One thread: the bytes must not depend on the number of CPUs.
    "zstd": ("zstd", "-19", "--single-thread", "-q", "-c"),
}

# What a kernel must have built in to mount an image as its root.
IMAGE_DRIVERS = frozenset({"nfit", "libnvdimm", "nd_pmem", "erofs"})


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build and where; ``kata_root`` and ``suite`` are empty for the usual ones."""

    output: str
    cache: str
    compression: str = "none"
    suite: str = ""
    kata_root: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class GuestFiles:
    """The contents of the image before they are written."""

    kernel: kernel.Kernel
    kernel_version: str
    boots_from: tuple[str, ...]
    entries: list[cpio.Entry]
    modules: list[modules.Module]


def build_image(request: BuildRequest, progress: Callable[[str], None]) -> dict[str, object]:
    """Build what is asked, unless the folder has it already; return the manifest."""
    recipe = inputs.load_recipe()
    sources = inputs.find_sources(request.kata_root)
    found = packages.find_packages(recipe.packages, request.suite)
    key = inputs.input_key(found, sources, (request.compression, request.suite))
    shelf = store.image_shelf(request.output)
    with store.locked(shelf):
        manifest = store.load_manifest(shelf)
        if manifest.get("key") == key and not request.force:
            progress(f"guest image in {request.output} is up to date")
            return manifest
        with store.scratch_folder(shelf) as scratch:
            found = [*found, *find_kernel(found, request.suite)]
            progress(f"fetching {len(found)} packages")
            tree = _read_packages(found, request.cache)
            progress("laying out the guest's files")
            files = _plan(tree, recipe, sources, scratch)
            progress("writing kernel, initrd and image")
            made = os.path.join(scratch, "made")
            os.mkdir(made)
            written = _write_files(files, scratch, made, request.compression)
            manifest = _manifest(key, found, files, written, sources)
            store.write_manifest(shelf, made, manifest)
            store.publish_version(shelf, made, key)
        store.prune_versions(shelf)
    return manifest


def find_kernel(found: Sequence[packages.Package], suite: str) -> list[packages.Package]:
    """Return the kernel package that the meta package in the recipe stands for."""
    names = [
        name
        for package in found
        if package.name.startswith("linux-image")
        for name in package.depends
        if name.startswith("linux-image-")
    ]
    return packages.find_packages(names, suite) if names else []


def _read_packages(found: Sequence[packages.Package], cache: str) -> packages.FileTree:
    tree: packages.FileTree = {}
    for package in found:
        path = packages.download_package(package, cache)
        tree.update(packages.read_package(path, _is_wanted))
    return tree


def _is_wanted(path: str) -> bool:
    return not path.startswith(("/usr/share/", "/boot/System.map", "/usr/lib/locale/"))


def _plan(
    tree: packages.FileTree, recipe: inputs.Recipe, sources: inputs.Sources, scratch: str
) -> GuestFiles:
    image, version = _find_kernel_image(tree)
    files, builtin = _find_modules(tree)
    chosen = modules.select_modules(files, builtin, recipe.modules)
    boots_from = ("initrd", *(("image",) if builtin >= IMAGE_DRIVERS else ()))
    interpreter = python.find_interpreter(tree)
    users = [
        *layout.program_entries(tree, recipe.programs),
        *python.python_entries(tree, recipe, sources, scratch),
    ]
    entries = [
        *layout.base_entries(interpreter.stdlib),
        *layout.module_entries(chosen, modules.render_list(chosen)),
        *users,
        *layout.library_entries(tree, users),
        *layout.name_entries(recipe.links),
    ]
    return GuestFiles(
        kernel.unpack_kernel(image), version, boots_from, cpio.with_parents(entries), chosen
    )


def _find_kernel_image(tree: packages.FileTree) -> tuple[bytes, str]:
    found = [path for path in tree if path.startswith("/boot/vmlinuz-")]
    if len(found) != 1:
        raise KataError(f"find kernel in the packages: found {found or 'none'}", Code.NOT_FOUND)
    return tree[found[0]].data, found[0].removeprefix("/boot/vmlinuz-")


def _find_modules(tree: packages.FileTree) -> tuple[dict[str, bytes], frozenset[str]]:
    """Return the modules' files by name, and the names of those that are built in."""
    builtin: frozenset[str] = frozenset()
    files = {}
    for path, file in tree.items():
        if path.startswith("/usr/lib/modules/"):
            if path.endswith("/modules.builtin"):
                builtin = modules.parse_builtin(file.data.decode())
            elif ".ko" in os.path.basename(path):
                files[modules.module_name(path)] = file.data
    return files, builtin


def _write_files(files: GuestFiles, scratch: str, made: str, compression: str) -> dict[str, bytes]:
    archive = b"".join(cpio.render_archive(files.entries, _mtime_s()))
    written = {store.KERNEL: files.kernel.data, store.INITRD: _compress(archive, compression)}
    for name, data in written.items():
        with open(os.path.join(made, name), "wb") as file:
            file.write(data)
    image = os.path.join(made, store.IMAGE)
    erofs.write_image(erofs.select_entries(files.entries), scratch, image, _mtime_s())
    with open(image, "rb") as file:
        written[store.IMAGE] = file.read()
    return written


def _mtime_s() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", "0"))


def _compress(archive: bytes, compression: str) -> bytes:
    command = COMPRESSIONS[compression]
    if not command:
        return archive
    try:
        done = subprocess.run(
            command, input=archive, capture_output=True, timeout=COMPRESS_TIMEOUT_S, check=True
        )
    except FileNotFoundError as error:
        raise KataError(
            f"compress initrd: {command[0]} is not installed", Code.FAILED_PRECONDITION
        ) from error
    return done.stdout


def _manifest(
    key: str,
    found: Sequence[packages.Package],
    files: GuestFiles,
    written: dict[str, bytes],
    sources: inputs.Sources,
) -> dict[str, object]:
    return {
        "key": key,
        "kernel": {
            "version": files.kernel_version,
            "form": files.kernel.form,
            "reason": files.kernel.reason,
            "boots_from": files.boots_from,
        },
        "protobuf": sources.protobuf_version,
        "packages": {package.name: package.version for package in found},
        "modules": [module.name for module in files.modules],
        "files": {
            name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in written.items()
        },
        "unpacked_size": sum(len(entry.data) for entry in files.entries),
    }
