"""What the parts of a run measure on: a containerd, its images and configurations."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.configuration import write_configuration
from tests.support.containerd import Containerd
from tests.support.factory import end_factory, make_template
from tools import busybox_image


@dataclass(frozen=True, slots=True)
class Bed:
    """A containerd with busybox, and how often each thing is measured."""

    containerd: Containerd
    folder: Path
    rounds: int

    def configure(self, **keys: object) -> str:
        """Return a configuration whose keys have other values than the shipped one's."""
        name = hashlib.sha256(repr(sorted(keys.items())).encode()).hexdigest()[:12]
        return write_configuration(self.folder / f"{name}.toml", **keys)

    def restart_factory(self, spares: int) -> list[str]:
        """Have a template and a factory that keeps so many machines ready; returns ctr's flags.

        The factory knows no other sandboxes, so no machines wait for those.
        """
        end_factory()
        flags = ["--runtime-config-path", self.configure(vm_cache_number=spares)]
        make_template(self.containerd, *flags)
        return flags


@contextmanager
def make_bed(rounds: int) -> Iterator[Bed]:
    """Start a containerd for the while."""
    with tempfile.TemporaryDirectory(prefix="kata-bench-") as name:
        folder = Path(name)
        containerd = Containerd(folder)
        containerd.start()
        try:
            containerd.ctr("image", "import", busybox_image.cached_image(name))
            yield Bed(containerd, folder, rounds)
        finally:
            containerd.stop()
