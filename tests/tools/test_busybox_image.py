"""The container image for tests and demonstration."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

from tools import busybox_image


def read(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            member.name: stream.read()
            for member in tar
            if member.isfile() and (stream := tar.extractfile(member))
        }


def test_every_digest_leads_to_its_blob(tmp_path: Path) -> None:
    busybox_image.write_busybox_image(str(tmp_path / "image.tar"))
    files = read((tmp_path / "image.tar").read_bytes())
    (reference,) = json.loads(files["index.json"])["manifests"]
    assert reference["annotations"]["io.containerd.image.name"] == busybox_image.NAME
    manifest = json.loads(files[blob(reference["digest"])])
    for descriptor in (reference, manifest["config"], *manifest["layers"]):
        data = files[blob(descriptor["digest"])]
        assert len(data) == descriptor["size"]
        assert hashlib.sha256(data).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    config = json.loads(files[blob(manifest["config"]["digest"])])
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]


def test_the_layer_has_busybox_and_its_applets() -> None:
    with tarfile.open(fileobj=io.BytesIO(busybox_image.busybox_layer())) as tar:
        assert tar.getmember("bin/busybox").mode == 0o755
        assert tar.getmember("bin/sh").linkname == "busybox"
        assert tar.getmember("tmp").mode == 0o1777


def test_the_same_busybox_gives_the_same_bytes() -> None:
    layer = busybox_image.busybox_layer()
    assert layer == busybox_image.busybox_layer()
    images = {busybox_image.render_image(layer, "a:b", {"Cmd": ["sh"]}) for _ in range(2)}
    assert len(images) == 1


def blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
