"""The kernels and roots that a guest can have, as keys of the configuration."""

from __future__ import annotations

import os

from tools.setup import SHARE

OWN_KERNEL = os.path.join(SHARE, "vmlinux-kata.container")
IMAGE = os.path.join(SHARE, "kata-containers.img")

OWN_WITH_IMAGE: dict[str, object] = {"kernel": OWN_KERNEL, "initrd": "", "image": IMAGE}
GUESTS: dict[str, dict[str, object]] = {
    "Debian's kernel, initrd": {},
    "own kernel, initrd": {"kernel": OWN_KERNEL},
    "own kernel, image": OWN_WITH_IMAGE,
}
