"""Programs that cannot be executed, and some that can, and how runtimes are asked for them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

# What comes before it is each runtime's own.
_REASON = re.compile(r"unable to start container process: (?:error during container init: )?(.*)")


@dataclass(frozen=True)
class Case:
    """A process: its words, working folder and user.

    ``created`` is whether runc makes a container of it.
    """

    name: str
    words: tuple[str, ...]
    created: bool = False
    cwd: str = "/"
    uid: int = 0


CASES = (
    Case("missing", ("/nosuch",)),
    Case("missing in PATH", ("nosuch",)),
    Case("missing beside", ("./nosuch",)),
    Case("link to nowhere", ("/dangling",)),
    Case("link to itself", ("/loop",)),
    Case("below a file", ("/etc/passwd/x",)),
    Case("folder", ("/etc",)),
    Case("link to a folder", ("/linkdir",)),
    Case("not executable", ("/etc/passwd",)),
    Case("not executable in PATH", ("noexec",)),
    Case("without a name", ("",)),
    Case("root's alone", ("/rootonly", "true"), uid=1000),
    Case("in root's folder", ("/closed/prog",), uid=1000),
    Case("interpreter missing", ("/noint",), created=True),
    Case("interpreter not executable", ("/noint2",), created=True),
    Case("unknown format", ("/garbage",), created=True),
    Case("empty", ("/empty",), created=True),
    Case("script without an interpreter", ("/script",), created=True),
    Case("half a header", ("/half",), created=True),
    Case("pipe", ("/pipe",), created=True),
    Case("folder that is a file", ("true",), cwd="/etc/passwd"),
    Case("folder below a file", ("true",), cwd="/etc/passwd/x"),
    Case("folder that is made", ("pwd",), created=True, cwd="/made/below"),
    Case("root's folder", ("pwd",), created=True, cwd="/closed", uid=1000),
    Case("relative", ("bin/true",), created=True),
    Case("relative to another folder", ("bin/true",), cwd="/bin"),
)


def add_programs(root: Path) -> None:
    """Add what the cases name to a root file system with busybox."""
    for name, data, mode in (
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n", 0o644),
        ("noint", b"#!/no/interpreter\n", 0o755),
        ("noint2", b"#!/etc/passwd\n", 0o755),
        ("garbage", b"\1\2\3", 0o755),
        ("empty", b"", 0o755),
        ("script", b"echo\n", 0o755),
        ("half", b"\x7fELF" + bytes(60), 0o755),
        ("rootonly", (root / "bin/busybox").read_bytes(), 0o700),
        ("closed/prog", b"#!/bin/sh\n", 0o755),
        ("bin/noexec", b"#!/bin/sh\n", 0o644),
    ):
        file = root / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
        file.chmod(mode)
    (root / "closed").chmod(0o700)
    os.symlink("/nowhere", root / "dangling")
    os.symlink("loop", root / "loop")
    os.symlink("/bin", root / "linkdir")
    os.mkfifo(root / "pipe", 0o755)
    (root / "pipe").chmod(0o755)


def find_reason(text: str) -> str:
    """Return the part of an error that engines look at; what is none, whole."""
    found = _REASON.search(text.replace('\\"', '"'))
    return found[1].removesuffix('"').removesuffix(": unknown") if found else text
