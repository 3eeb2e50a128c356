"""Give a volume to a group (Kubernetes' fsGroup)."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_READ = stat.S_IRUSR | stat.S_IRGRP
_WRITE = stat.S_IWUSR | stat.S_IWGRP
_FOLDER = stat.S_IXUSR | stat.S_IXGRP | stat.S_ISGID


def own(path: str, group: int, read_only: bool, only_on_mismatch: bool) -> None:
    """Change group and mode of everything below ``path`` as the kubelet does.

    With ``only_on_mismatch`` nothing is done when the root folder is right already.  Links are not
    followed.  Raises OSError.
    """
    if only_on_mismatch and _is_owned(os.lstat(path), group, read_only):
        return
    for entry in _walk(path):
        status = os.lstat(entry)
        os.chown(entry, -1, group, follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            os.chmod(entry, stat.S_IMODE(status.st_mode) | _mode(status, read_only))


def _is_owned(status: os.stat_result, group: int, read_only: bool) -> bool:
    wanted = _mode(status, read_only)
    return status.st_gid == group and status.st_mode & wanted == wanted


def _mode(status: os.stat_result, read_only: bool) -> int:
    mode = _READ if read_only else _READ | _WRITE
    return mode | _FOLDER if stat.S_ISDIR(status.st_mode) else mode


def _walk(path: str) -> Iterator[str]:
    # Children first: an interrupted run leaves the root wrong, so it is done again.
    for folder, folders, names in os.walk(path, topdown=False):
        for name in folders + names:
            yield f"{folder}/{name}"
    yield path
