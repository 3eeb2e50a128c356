"""Compile the Python modules that the guest needs, and no others.

Run as a program by the interpreter that the image ships, never by the builder's own: byte code
belongs to one version, and a process that does nothing else gives the same bytes every time
(marshal's output depends on reference counts).  So it imports only the standard library.

Request on stdin, as JSON: ``roots`` (folders with modules, stdlib and others), ``start`` (module
names), ``eager`` (packages whose imports inside functions count too), ``exclude`` and ``output``.
The answer on stdout, as JSON too: see ``Answer``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import marshal
import os
import sys
from typing import TypedDict

# Class docstrings stay in our own code: without one, dataclass() imports inspect machinery to write
# its own, which costs more at start than the docstrings' bytes.
STDLIB_OPTIMIZE, OWN_OPTIMIZE = 2, 1


class Request(TypedDict):
    """What to compile."""

    roots: list[str]
    start: list[str]
    eager: list[str]
    exclude: list[str]
    output: str


class Answer(TypedDict):
    """Modules compiled, extension modules with their files, names not found with an importer."""

    modules: list[str]
    extensions: dict[str, str]
    missing: dict[str, str]


def main() -> None:
    """Serve one request."""
    request: Request = json.load(sys.stdin)
    json.dump(Freezer(request).run(), sys.stdout)


class Freezer:
    """The closure of imports over a set of roots."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._exclude = frozenset(request["exclude"])
        self._sources: dict[str, str] = {}
        self._extensions: dict[str, str] = {}
        self._missing: dict[str, str] = {}

    def run(self) -> Answer:
        """Follow the imports, compile what was found, and report."""
        pending = [(name, "") for name in reversed(self._request["start"])]
        while pending:
            name, importer = pending.pop()
            if self._add(name, importer):
                pending += [(found, name) for found in self._imports_of(name)]
        for name in sorted(self._sources):
            self._compile(name)
        return {
            "modules": sorted(self._sources),
            "extensions": dict(sorted(self._extensions.items())),
            "missing": dict(sorted(self._missing.items())),
        }

    def _add(self, name: str, importer: str) -> bool:
        """Find a module; tell whether it is new and has imports of its own."""
        if name in self._sources or name in self._extensions or name in sys.builtin_module_names:
            return False
        if any(name == item or name.startswith(item + ".") for item in self._exclude):
            return False
        path = self._find(name)
        if path is None:
            if not self._is_namespace(name):
                self._missing.setdefault(name, importer)
            return False
        if not path.endswith(".py"):
            self._extensions[name] = path
            return False
        self._sources[name] = path
        return True

    def _find(self, name: str) -> str | None:
        relative = name.replace(".", "/")
        for root in self._request["roots"]:
            for candidate in (f"{relative}/__init__.py", f"{relative}.py"):
                path = os.path.join(root, candidate)
                if os.path.isfile(path):
                    return path
            for folder in (root, os.path.join(root, "lib-dynload")):
                extension = _find_extension(os.path.join(folder, relative))
                if extension:
                    return extension
        return None

    def _is_namespace(self, name: str) -> bool:
        relative = name.replace(".", "/")
        return any(os.path.isdir(os.path.join(root, relative)) for root in self._request["roots"])

    def _imports_of(self, name: str) -> list[str]:
        path = self._sources[name]
        with open(path, "rb") as file:
            tree = ast.parse(file.read(), path)
        eager = any(name == item or name.startswith(item + ".") for item in self._request["eager"])
        package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
        found: list[str] = []
        for node in _import_nodes(tree, eager):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                targets = self._from_targets(node, package)
            for target in targets:
                parts = target.split(".")
                found += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
        parents = name.split(".")[:-1]
        found += [".".join(parents[:count]) for count in range(1, len(parents) + 1)]
        return sorted(set(found), reverse=True)

    def _from_targets(self, node: ast.ImportFrom, package: str) -> list[str]:
        base = node.module or ""
        if node.level:
            parts = package.split(".")
            kept = parts[: len(parts) - node.level + 1]
            base = ".".join([*kept, base] if base else kept)
        # "from a import b": b may be a module, or only a name in a.
        names = [f"{base}.{alias.name}" for alias in node.names]
        return [base, *(name for name in names if self._find(name))]

    def _compile(self, name: str) -> None:
        path = self._sources[name]
        own = any(name == item or name.startswith(item + ".") for item in self._request["eager"])
        relative = name.replace(".", "/")
        if path.endswith("/__init__.py"):
            relative += "/__init__"
        with open(path, "rb") as file:
            source = file.read()
        optimize = OWN_OPTIMIZE if own else STDLIB_OPTIMIZE
        code = compile(source, f"{relative}.py", "exec", dont_inherit=True, optimize=optimize)
        target = os.path.join(self._request["output"], relative + ".pyc")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "wb") as file:
            # Flags 1: hash-based and not checked (PEP 552); a file without its source is never
            # compared with it anyway.
            file.write(importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + b"\0" * 8 + marshal.dumps(code))


def _find_extension(path: str) -> str | None:
    folder, name = os.path.split(path)
    if not os.path.isdir(folder):
        return None
    for entry in sorted(os.listdir(folder)):
        if entry.startswith(name + ".") and entry.endswith(".so"):
            return os.path.join(folder, entry)
    return None


def _import_nodes(tree: ast.AST, eager: bool) -> list[ast.Import | ast.ImportFrom]:
    """Return import statements that run: at load, and with ``eager`` those in functions too."""
    found: list[ast.Import | ast.ImportFrom] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.append(node)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            pending += node.orelse
        elif eager or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending += [
                child
                for child in ast.iter_child_nodes(node)
                if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)
            ]
    return found


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


if __name__ == "__main__":
    main()
