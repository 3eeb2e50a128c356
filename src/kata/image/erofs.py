"""The guest's files as an erofs image that a machine maps as memory (DAX).

Every file's content is whole pages of the image, uncompressed, so the guest runs programs and
libraries where they lie: in the host's page cache, once for all machines.  Owned by the image
builder.  The same entries always give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

from kata.base.errors import Code, KataError
from kata.image.cpio import Entry
from kata.image.nvdimm import ALIGN_BYTES, render_header

if TYPE_CHECKING:
    from collections.abc import Iterable

_TIMEOUT_S = 120.0
_UUID = "6b617461-0000-4000-8000-000000000000"
# Without noinline_data the ends of files lie beside the inodes, and such files are not mapped
# (erofs_fill_inode of the kernel).  No attributes; every time is -T's.
_OPTIONS = ("-E", "noinline_data,force-inode-compact", "-x", "-1", "-U", _UUID, "--all-root")


def select_entries(entries: Iterable[Entry]) -> list[Entry]:
    """Return what an image has of the initrd's entries.

    Devices are the kernel's, which mounts devtmpfs before it starts /init; one that can mount the
    image has no use for another kernel's modules.
    """
    return [
        entry
        for entry in entries
        if not stat.S_ISCHR(entry.mode)
        and not entry.name.startswith("usr/lib/modules/")
        and entry.name != "usr/lib/kata/modules.list"
    ]


def write_image(entries: Iterable[Entry], scratch: str, path: str, mtime_s: int = 0) -> None:
    """Write an image to ``path``, by way of a folder below ``scratch``.  Raises KataError."""
    root = os.path.join(scratch, "root")
    os.mkdir(root)
    for entry in entries:
        _write(os.path.join(root, entry.name), entry)
    system = os.path.join(scratch, "erofs")
    command = ["mkfs.erofs", "--quiet", *_OPTIONS, "-T", str(mtime_s), system, root]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise KataError(
            "make image: mkfs.erofs is not installed",
            Code.FAILED_PRECONDITION,
            "apt-get install erofs-utils",
        ) from error
    if done.returncode:
        reason = (done.stderr or done.stdout).decode(errors="replace").strip()[-500:]
        raise KataError(f"make image: mkfs.erofs: {reason}")
    size = ALIGN_BYTES + os.stat(system).st_size
    size += -size % ALIGN_BYTES
    with open(system, "rb") as source, open(path, "xb") as target:
        target.write(render_header(size))
        shutil.copyfileobj(source, target)
        target.truncate(size)


def _write(path: str, entry: Entry) -> None:
    if stat.S_ISDIR(entry.mode):
        os.mkdir(path)
    elif stat.S_ISLNK(entry.mode):
        os.symlink(entry.data.decode(), path)
        return
    else:
        with open(path, "xb") as file:
            file.write(entry.data)
    os.chmod(path, stat.S_IMODE(entry.mode))
