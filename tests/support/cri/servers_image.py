"""An image with real servers: Debian's smallest root file system, nginx, dnsmasq, and some tools.

Its file system is kept in the cache of downloads.
"""

from __future__ import annotations

from tests.support.debian_root import debian_root

NAME = "localhost/servers:latest"
SETTINGS: dict[str, object] = {
    "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    "Cmd": ["nginx", "-g", "daemon off;"],
}
PACKAGES = ("nginx-light", "inotify-tools", "dnsmasq-base", "iptables")


def servers_layer() -> bytes:
    """Return the image's file system as a tar file."""
    with open(debian_root(PACKAGES), "rb") as file:
        return file.read()
