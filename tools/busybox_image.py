"""A container image made of Debian's static busybox, as an OCI archive that containerd imports.

There is no registry to pull from in a test, and a demonstration should not need one.  The same
busybox gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAME = "docker.io/library/busybox:latest"
BUSYBOX = "/bin/busybox"
FOLDERS = {"bin": 0o755, "dev": 0o755, "etc": 0o755, "proc": 0o555, "root": 0o700, "sys": 0o555,
           "tmp": 0o1777, "usr": 0o755, "var": 0o755}  # fmt: skip
FILES = {
    "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
}
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def write_busybox_image(path: str, name: str = NAME) -> None:
    """Write the archive; ``ctr image import`` then knows the image as ``name``."""
    layer = busybox_layer()
    with open(path, "wb") as file:
        file.write(render_image(layer, name, {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["sh"]}))


def busybox_layer() -> bytes:
    """Return the file system: busybox, a link for each applet, and the usual folders."""
    with open(BUSYBOX, "rb") as file:
        busybox = file.read()
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    applets = [name for name in listed.stdout.split() if name != "busybox"]
    return render_tar(
        [
            *(_folder(name, mode) for name, mode in FOLDERS.items()),
            *(_file(name, data, 0o644) for name, data in FILES.items()),
            _file("bin/busybox", busybox, 0o755),
            *(_link(f"bin/{name}", "busybox") for name in sorted(applets)),
        ]
    )


def render_image(layer: bytes, name: str, settings: Mapping[str, object]) -> bytes:
    """Return an OCI image layout as a tar file; ``settings`` is the ``config`` of the image."""
    config = _json(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": settings,
            "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        }
    )
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config),
            "layers": [_descriptor(LAYER_TYPE, layer)],
        }
    )
    reference = _descriptor(MANIFEST_TYPE, manifest)
    reference["annotations"] = {
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name.rpartition(":")[2],
    }
    index = _json({"schemaVersion": 2, "manifests": [reference]})
    blobs = [(f"blobs/sha256/{_digest(blob)[7:]}", blob) for blob in (layer, config, manifest)]
    return render_tar(
        [
            _file("oci-layout", _json({"imageLayoutVersion": "1.0.0"}), 0o644),
            _file("index.json", index, 0o644),
            *(_file(place, blob, 0o644) for place, blob in sorted(blobs)),
        ]
    )


def render_tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """Return a tar file of the members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, data in members:
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _folder(name: str, mode: int) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, mode
    return member, b""


def _file(name: str, data: bytes, mode: int) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    return member, data


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, target, 0o777
    return member, b""


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def cached_image(folder: str) -> str:
    """Return the archive's path in a folder, written when it is not there yet."""
    path = os.path.join(folder, "busybox.tar")
    if not os.path.exists(path):
        os.makedirs(folder, exist_ok=True)
        write_busybox_image(path + ".new")
        os.replace(path + ".new", path)
    return path
