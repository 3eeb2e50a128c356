"""Whether a machine can have its root in an image: found out before it boots and panics."""

from __future__ import annotations

import json
import os

from kata.base.errors import Code, KataError
from kata.host.hypervisor.spec import VmSpec

# The builders' notes beside the kernel (kata.image.store), the first for kernels from source.
_MANIFESTS = ("vmlinux-kata.json", "manifest.json")
# The guest's kernel maps memory of this kind in such parts only.
_ALIGN_BYTES = 2 << 20


def check_image(spec: VmSpec) -> None:
    """Raise FAILED_PRECONDITION for an image, or a kernel, with which there would be no root."""
    size = os.stat(spec.image).st_size
    if not size or size % _ALIGN_BYTES:
        raise KataError(
            f"start virtual machine: image {spec.image} has {size} bytes,"
            " which is no multiple of 2 MiB",
            Code.FAILED_PRECONDITION,
            "build the guest image: kata-image build",
        )
    version, roots = _read_kernel(spec.kernel)
    if roots is not None and "image" not in roots:
        raise KataError(
            f"start virtual machine: kernel {spec.kernel} ({version}) cannot boot from an image:"
            " it has what that needs as modules only",
            Code.FAILED_PRECONDITION,
            "build one that can (kata-image kernel) and set kernel in [hypervisor.qemu],"
            ' or set initrd and image = ""',
        )


def _read_kernel(path: str) -> tuple[str, list[str] | None]:
    """Return a kernel's version and what it boots from; None for one of unknown making."""
    folder, name = os.path.split(os.path.realpath(path))
    for manifest in _MANIFESTS:
        try:
            with open(os.path.join(folder, manifest), "rb") as file:
                facts = json.load(file)
            if name in facts["files"]:
                return str(facts["kernel"]["version"]), list(facts["kernel"]["boots_from"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return "", None
