"""modprobe(8) for the guest's kernel, which runs it when a program asks for what is not loaded.

``/sbin/modprobe -q -- NAME``, where NAME is a module's name or one of its aliases.  Modules that
the image lacks stay unknown, as on any machine.
"""

from __future__ import annotations

from kata.base.errors import KataError
from kata.guest.modules import Modules


def main(arguments: list[str]) -> int:
    """Load what is asked for; returns the exit status."""
    names = [word for word in arguments if not word.startswith("-")]
    modules = Modules()
    try:
        for name in names:
            modules.probe(modules.resolve(name), "")
    except (KataError, OSError):
        return 1  # the kernel tells whoever asked
    return 0
