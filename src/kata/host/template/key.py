"""Which machines are alike: the key under which a template is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence

# Changes whenever what is saved, or what the agent is asked before, does.
_FORMAT = 1
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def template_key(machine: Mapping[str, object], files: Sequence[str]) -> str:
    """Return the key of a machine's description and the files that it is made of.

    A file that was replaced or changed gives another key, and so does every boot of the host.
    Raises OSError for a file that is not there.
    """
    with open(_BOOT_ID) as file:
        boot = file.read().strip()
    parts = [_FORMAT, boot, dict(machine), [_identify(path) for path in files]]
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _identify(path: str) -> list[object]:
    real = os.path.realpath(path)
    info = os.stat(real)
    return [real, info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns]
