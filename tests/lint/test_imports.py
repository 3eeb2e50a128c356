"""Imports go down: which part of the system may know which."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
MIDDLE = ("hypervisor", "share", "storage", "network", "resource", "template")

# Each part, with the parts that it may import besides itself.  The most specific name counts.
BELOW = ("kata.base", "kata.rpc", "kata.oci")
HOST = (*BELOW, "kata.config")
ALLOWED: dict[str, tuple[str, ...]] = {
    "kata.base": (),
    "kata.rpc": ("kata.base",),
    "kata.oci": ("kata.base", "kata.rpc"),
    "kata.config": ("kata.base",),
    "kata.guest": BELOW,
    **{f"kata.host.{name}": HOST for name in MIDDLE},
    "kata.host.sandbox": (*HOST, *(f"kata.host.{name}" for name in MIDDLE)),
    "kata.host.shim": (*HOST, "kata.host.sandbox"),
    "kata.host.factory": (*HOST, *(f"kata.host.{name}" for name in (*MIDDLE, "sandbox", "shim"))),
    "kata.image": ("kata.base",),
    "kata.cli": (*BELOW, "kata.config"),
    "kata.monitor": BELOW,
}


def part_of(module: str) -> str:
    """Return the part that a module belongs to; empty for ``kata`` itself and others' modules."""
    found = [part for part in ALLOWED if f"{module}.".startswith(f"{part}.")]
    return max(found, key=len, default="")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_the_library_of_the_monitor_is_its_alone() -> None:
    users = {
        part_of(".".join(path.relative_to(SOURCE).with_suffix("").parts))
        for path in SOURCE.glob("kata/**/*.py")
        if any(name.split(".")[0] == "prometheus_client" for name in imported(path))
    }
    assert users == {"kata.monitor"}


def test_imports_go_down() -> None:
    wrong = []
    for path in sorted(SOURCE.glob("kata/*/**/*.py")):
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        part = part_of(module)
        assert part or path.name == "__init__.py", f"{module} belongs to no part"
        for name in sorted(imported(path)):
            target = part_of(name)
            if target and target != part and target not in ALLOWED[part]:
                wrong.append(f"{module} imports {name}")
    assert not wrong
