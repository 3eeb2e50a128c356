"""What ps shows of a process that has become another's (proc(5), cmdline)."""

from __future__ import annotations

import os

# Numbers of the fields in /proc/PID/stat, from 1 on, that say where the arguments are in memory.
_ARG_START, _ARG_END = 48, 49
_NAME_BYTES = 15
# An argument that only makes room for longer command lines.
PADDING = " " * 4096


def set_title(argv: list[str]) -> None:
    """Show another command line, cut to the room that there is, and the name of its program."""
    _write("self", b"\0".join(os.fsencode(word) for word in argv))
    program = next((word for word in argv[1:] if not word.startswith("-")), argv[0])
    with open("/proc/self/comm", "w") as file:
        file.write(os.path.basename(program)[:_NAME_BYTES])


def replace_in_title(pid: int, old: str, new: str) -> None:
    """Show ``new`` wherever a process's command line has ``old``, which is not shorter.

    Raises OSError where the caller may not trace the process.
    """
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        shown = file.read()
    _write(str(pid), shown.replace(os.fsencode(old), os.fsencode(new)))


def _write(pid: str, data: bytes) -> None:
    start, end = _find_arguments(pid)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(data[: end - start - 1].ljust(end - start, b"\0"))


def _find_arguments(pid: str) -> tuple[int, int]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # The first of these is the third field.
    return int(fields[_ARG_START - 3]), int(fields[_ARG_END - 3])
