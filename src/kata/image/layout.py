"""What stands where in the guest's root file system.

Owned by the image builder.  Pure: files of packages in, archive entries out.  The paths here are a
contract with ``kata.guest``: /init starts it, /usr/lib/kata/modules.list tells it the modules.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import cpio, elf
from kata.image.packages import FileTree, merged_path, resolve_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kata.image.modules import Module

LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib", "/usr/lib64")
OWN_FOLDER = "/usr/lib/kata"
MODULES_LIST = f"{OWN_FOLDER}/modules.list"

FOLDERS = {
    "dev": 0o755,
    "proc": 0o555,
    "sys": 0o555,
    "run": 0o755,
    "tmp": 0o1777,
    "root": 0o700,
    "etc": 0o755,
    "var": 0o755,
    "mnt": 0o755,
}
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "usr/sbin": "bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "var/run": "/run",
    "etc/mtab": "/proc/self/mounts",
}
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hostname": "kata\n",
    # A mount point: the root is read-only while containers run.
    "etc/resolv.conf": "",
}
# The kernel opens /dev/console for PID 1 before anything can mount devtmpfs.
DEVICES = {"dev/console": ((5, 1), 0o600), "dev/null": ((1, 3), 0o666)}

# What runs Python in the guest: /init, and what the kernel runs when it wants a module.
SCRIPT = """\
#!/usr/bin/python3 -IS
import sys
sys.path[:] = ["{own}", "{stdlib}", "{stdlib}/lib-dynload"]
from kata.guest.{module} import main
sys.exit(main({arguments}))
"""


def base_entries(stdlib: str) -> list[cpio.Entry]:
    """Return folders, links, small files, devices and /init; ``stdlib`` as in the guest."""
    return [
        *(cpio.folder_entry(name, mode) for name, mode in FOLDERS.items()),
        *(cpio.link_entry(name, target) for name, target in LINKS.items()),
        *(cpio.file_entry(name, text.encode()) for name, text in FILES.items()),
        *(
            cpio.character_device_entry(name, device, mode)
            for name, (device, mode) in DEVICES.items()
        ),
        _script_entry("init", stdlib, "init", ""),
        _script_entry("usr/bin/modprobe", stdlib, "modprobe", "sys.argv[1:]"),
    ]


def _script_entry(name: str, stdlib: str, module: str, arguments: str) -> cpio.Entry:
    text = SCRIPT.format(own=OWN_FOLDER, stdlib=stdlib, module=module, arguments=arguments)
    return cpio.file_entry(name, text.encode(), 0o755)


def module_entries(modules: Iterable[Module], rendered_list: str) -> list[cpio.Entry]:
    """Return the kernel modules, flat, and the list of them."""
    return [
        *(
            cpio.file_entry(f"usr/lib/modules/{module.file_name}", module.pack())
            for module in modules
        ),
        cpio.file_entry(MODULES_LIST.lstrip("/"), rendered_list.encode()),
    ]


def program_entries(tree: FileTree, programs: dict[str, str]) -> list[cpio.Entry]:
    """Return the programs of the table ``path in package -> path in guest``."""
    entries = []
    for source, target in programs.items():
        file = resolve_file(tree, source)
        if file is None:
            raise KataError(f"find program {source}: in no package of packages.txt", Code.NOT_FOUND)
        entries.append(cpio.file_entry(target.lstrip("/"), file.data, 0o755))
    return entries


def name_entries(links: dict[str, str]) -> list[cpio.Entry]:
    """Return the links of the table ``path in guest -> target``, programs' further names."""
    return [cpio.link_entry(path.lstrip("/"), target) for path, target in links.items()]


def library_entries(tree: FileTree, users: Iterable[cpio.Entry]) -> list[cpio.Entry]:
    """Return loader and shared libraries that the users need, and those need in turn."""
    found: dict[str, cpio.Entry] = {}
    pending = [entry for entry in users if elf.is_elf(entry.data)]
    while pending:
        user = pending.pop()
        shared = elf.parse_shared_object(user.data)
        paths = {name: _find_library(tree, name) for name in shared.needed}
        if shared.interpreter:
            paths[shared.interpreter] = merged_path(shared.interpreter)
        for name, path in paths.items():
            file = resolve_file(tree, path) if path else None
            if file is None or path is None:
                raise KataError(
                    f"find library {name}, needed by {user.name}: in no package of packages.txt",
                    Code.NOT_FOUND,
                )
            if path not in found:
                found[path] = cpio.file_entry(path.lstrip("/"), file.data, 0o755)
                pending.append(found[path])
    return list(found.values())


def _find_library(tree: FileTree, name: str) -> str | None:
    # ld.so is named both as interpreter and as a library of libc; one copy, where the former is.
    loader = f"/usr/lib64/{name}"
    if loader in tree:
        return loader
    return next(
        (path for folder in LIBRARY_FOLDERS if (path := os.path.join(folder, name)) in tree), None
    )
