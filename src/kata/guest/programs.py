"""Which file a process's program is, and whether it can be executed, in runc's words.

Engines make statuses of these words: 127 of what is not found, 126 of what is not permitted.
"""

from __future__ import annotations

import os
import stat

from kata.base.errors import Code, KataError


def find(name: str, search: str) -> str:
    """Return the path of a program in this process's root; ``search`` is a PATH.

    Raises KataError when there is none that this process may execute.  Whether its format is known
    and its interpreter is there, only the kernel finds.
    """
    path = _check(name) if "/" in name else _search(name, search)
    if not os.access(path, os.X_OK):
        raise KataError(f"exec {path}: permission denied", Code.UNKNOWN)
    return path


def describe(error: OSError) -> str:
    """Return an error's text as Go's programs have it."""
    return os.strerror(error.errno or 0).lower()


def _check(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError as error:
        raise KataError(f'exec: "{path}": stat {path}: {describe(error)}', Code.UNKNOWN) from None
    if os.path.samestat(found, os.stat("/proc/self/exe")):
        raise KataError(f"exec {path}: it is not the container's", Code.UNKNOWN)
    if not _may_be_executed(found):
        raise KataError(f'exec: "{path}": permission denied', Code.UNKNOWN)
    return path


def _search(name: str, search: str) -> str:
    for folder in search.split(":") if name else ():
        path = f"{folder or '.'}/{name}"
        try:
            if _may_be_executed(os.stat(path)):
                return path
        except OSError:
            pass  # in another folder, then
    raise KataError(f'exec: "{name}": executable file not found in $PATH', Code.UNKNOWN)


def _may_be_executed(found: os.stat_result) -> bool:
    return not stat.S_ISDIR(found.st_mode) and bool(found.st_mode & 0o111)
