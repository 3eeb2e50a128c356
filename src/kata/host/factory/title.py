"""What ps shows of a process that was forked instead of executed (proc(5), cmdline)."""

from __future__ import annotations

import os

# Numbers of the fields in /proc/PID/stat, from 1 on, that say where the arguments are in memory.
_ARG_START, _ARG_END = 48, 49
_NAME_BYTES = 15
# An argument that only makes room for longer command lines.
PADDING = " " * 4096


def set_title(argv: list[str]) -> None:
    """Show another command line, cut to the room that there is, and the name of its program."""
    start, end = _find_arguments()
    data = b"\0".join(os.fsencode(word) for word in argv)[: end - start - 1]
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        memory.write(data.ljust(end - start, b"\0"))
    program = next((word for word in argv[1:] if not word.startswith("-")), argv[0])
    with open("/proc/self/comm", "w") as file:
        file.write(os.path.basename(program)[:_NAME_BYTES])


def _find_arguments() -> tuple[int, int]:
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    # The first of these is the third field.
    return int(fields[_ARG_START - 3]), int(fields[_ARG_END - 3])
