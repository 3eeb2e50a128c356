"""Root file systems of Debian, kept in the cache of downloads: making one takes half a minute."""

from __future__ import annotations

import os
import subprocess

from tools.other_debian import find_archive
from tools.steps import content_key

CACHE = "/var/cache/kata-image/roots"
# Enough for a slow mirror; the tests need not wait longer for one that does not answer.
TIMEOUT_S = 300


def debian_root(packages: tuple[str, ...], variant: str = "essential") -> str:
    """Return a tar file of a small root file system of Debian 12 with some packages more."""
    command = [
        "mmdebstrap",
        "--quiet",
        f"--variant={variant}",
        f"--include={','.join(packages)}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "bookworm",
    ]
    path = os.path.join(CACHE, f"{content_key([], *command)[:16]}.tar")
    if not os.path.exists(path):
        os.makedirs(CACHE, exist_ok=True)
        subprocess.run([*command, f"{path}.new.tar", find_archive()], check=True, timeout=TIMEOUT_S)
        os.replace(f"{path}.new.tar", path)
    return path
