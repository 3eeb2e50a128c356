"""An image with real servers: Debian's smallest root file system, nginx, dnsmasq, and some tools.

Making it takes half a minute, so it is kept in the cache of downloads.
"""

from __future__ import annotations

import os
import subprocess

from tools.other_debian import find_archive
from tools.steps import content_key

NAME = "localhost/servers:latest"
SETTINGS: dict[str, object] = {
    "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    "Cmd": ["nginx", "-g", "daemon off;"],
}
CACHE = "/var/cache/kata-image/servers"
# Enough for a slow mirror; the tests need not wait longer for one that does not answer.
TIMEOUT_S = 300
COMMAND = (
    "mmdebstrap",
    "--quiet",
    "--variant=essential",
    "--include=nginx-light,inotify-tools,dnsmasq-base,iptables",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "bookworm",
)


def servers_layer() -> bytes:
    """Return the image's file system as a tar file."""
    path = os.path.join(CACHE, f"{content_key([], *COMMAND)[:16]}.tar")
    if not os.path.exists(path):
        os.makedirs(CACHE, exist_ok=True)
        command = [*COMMAND, f"{path}.new.tar", find_archive()]
        subprocess.run(command, check=True, timeout=TIMEOUT_S)
        os.replace(f"{path}.new.tar", path)
    with open(path, "rb") as file:
        return file.read()
