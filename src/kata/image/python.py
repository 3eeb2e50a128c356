"""The guest's Python: the interpreter's standard library and our code, as byte code.

Owned by the image builder.  Runs ``freeze`` with the very interpreter that the image ships, out of
a scratch folder, through its own loader: nothing of the host's Python takes part.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image import cpio, elf, freeze
from kata.image.inputs import SHIPPED, START_MODULES, Recipe, Sources
from kata.image.layout import OWN_FOLDER, library_entries
from kata.image.packages import resolve_file

if TYPE_CHECKING:
    from kata.image.packages import FileTree

FREEZE_TIMEOUT_S = 300.0
# Modules that upb's C core imports by name when it is loaded.
GOOGLE_MODULES = (
    "google._upb._message",
    "google.protobuf.message",
    "google.protobuf.internal.enum_type_wrapper",
)
GOOGLE_PACKAGES = {"google.protobuf", "google.protobuf.internal"}
# Linked, but not used: 2.3 MB of the C++ run-time library.
UNUSED_LIBRARIES = ("libstdc++.so.6",)


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The interpreter in the packages: its program and its standard library's folder."""

    program: str
    stdlib: str


def find_interpreter(tree: FileTree) -> Interpreter:
    """Return the one Python of the tree; raise KataError when there is none or more."""
    found = [
        path
        for path in tree
        if path.startswith("/usr/bin/python3.") and path.removeprefix("/usr/bin/python3.").isdigit()
    ]
    if len(found) != 1:
        raise KataError(f"find Python in the packages: found {found or 'none'}", Code.NOT_FOUND)
    return Interpreter(found[0], found[0].replace("/bin/", "/lib/"))


def python_entries(
    tree: FileTree, recipe: Recipe, sources: Sources, scratch: str
) -> list[cpio.Entry]:
    """Return byte code and extension modules; raise KataError for what cannot be shipped."""
    interpreter = find_interpreter(tree)
    _unpack(tree, interpreter, scratch)
    site = os.path.join(scratch, "site")
    os.makedirs(site)
    os.symlink(os.path.join(sources.google_root, "google"), os.path.join(site, "google"))
    output = os.path.join(scratch, "frozen")
    answer = _freeze(
        scratch,
        interpreter,
        {
            "roots": [scratch + interpreter.stdlib, site, sources.kata_root],
            "start": [*START_MODULES, *GOOGLE_MODULES, *recipe.include],
            "eager": ["kata"],
            "exclude": list(recipe.exclude),
            "output": output,
        },
    )
    _check(answer)
    return [
        *(_module_entry(name, output, interpreter) for name in answer["modules"]),
        *(_extension_entry(name, path, interpreter) for name, path in answer["extensions"].items()),
    ]


def _unpack(tree: FileTree, interpreter: Interpreter, scratch: str) -> None:
    """Write interpreter, its libraries and library modules into the scratch folder."""
    wanted = [path for path in tree if path.startswith(interpreter.stdlib + "/")]
    program = resolve_file(tree, interpreter.program)
    assert program
    extensions = [
        cpio.file_entry(path, file.data)
        for path in wanted
        if "/_json." in path and (file := resolve_file(tree, path))
    ]
    starter = [cpio.file_entry(interpreter.program, program.data, 0o755), *extensions]
    for entry in (*starter, *library_entries(tree, starter)):
        _write(scratch, entry.name, entry.data, 0o755)
    for path in wanted:
        file = resolve_file(tree, path)
        if file:
            _write(scratch, path, file.data, 0o644)


def _write(scratch: str, name: str, data: bytes, mode: int) -> None:
    path = os.path.join(scratch, name.lstrip("/"))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)


def _freeze(scratch: str, interpreter: Interpreter, request: freeze.Request) -> freeze.Answer:
    command = [
        os.path.join(scratch, "usr/lib64/ld-linux-x86-64.so.2"),
        "--library-path",
        f"{scratch}/usr/lib/x86_64-linux-gnu:{scratch}/usr/lib64",
        scratch + interpreter.program,
        "-B",
        "-s",
        "-S",
        os.path.abspath(freeze.__file__),
    ]
    done = subprocess.run(
        command,
        input=json.dumps(request).encode(),
        capture_output=True,
        timeout=FREEZE_TIMEOUT_S,
        check=False,
        env={"PYTHONHOME": f"{scratch}/usr", "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8"},
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()[-1000:]
        raise KataError(f"compile the guest's Python modules: {reason}")
    answer: freeze.Answer = json.loads(done.stdout)
    return answer


def _check(answer: freeze.Answer) -> None:
    shipped = tuple(f"kata.{name}" for name in SHIPPED)
    for name in answer["modules"]:
        if name.startswith("kata.") and not name.startswith(shipped):
            raise KataError(
                f"ship {name}: the guest has only {', '.join(shipped)}", Code.FAILED_PRECONDITION
            )
    for name, importer in answer["missing"].items():
        if not importer or importer.startswith("kata."):
            raise KataError(
                f"find Python module {name}, imported by {importer or 'the recipe'}: "
                "neither in the packages nor in our code",
                Code.NOT_FOUND,
            )


def _module_entry(name: str, output: str, interpreter: Interpreter) -> cpio.Entry:
    relative = name.replace(".", "/")
    package = os.path.join(output, relative, "__init__.pyc")
    if os.path.exists(package):
        relative += "/__init__"
    with open(os.path.join(output, relative + ".pyc"), "rb") as file:
        data = file.read()
    return cpio.file_entry(f"{_folder(name, interpreter)}/{relative}.pyc", data)


def _extension_entry(name: str, path: str, interpreter: Interpreter) -> cpio.Entry:
    with open(path, "rb") as file:
        data = file.read()
    for library in UNUSED_LIBRARIES:
        data = elf.without_needed(data, library)
    folder = _folder(name, interpreter)
    if not _is_own(name):
        folder += "/lib-dynload"
    place = "/".join([folder, *name.split(".")[:-1], os.path.basename(path)])
    return cpio.file_entry(place, data, 0o755)


def _folder(name: str, interpreter: Interpreter) -> str:
    return (OWN_FOLDER if _is_own(name) else interpreter.stdlib).lstrip("/")


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in ("kata", "google")
