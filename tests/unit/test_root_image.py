"""Kernels and images that do not fit together, found before a machine starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.hypervisor.spec import VmSpec
from kata.host.sandbox.root_image import check_image
from tests.unit.test_hypervisor import SPEC


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    image = tmp_path / "image"
    image.write_bytes(bytes(2 << 20))
    return replace(SPEC, initrd="", image=str(image), kernel=str(tmp_path / "kernel"))


def write_manifest(kernel: str, name: str, *boots_from: str) -> None:
    facts = {"version": "6.1", "boots_from": boots_from}
    text = json.dumps({"kernel": facts, "files": {Path(kernel).name: {}}})
    Path(kernel).with_name(name).write_text(text)


def test_a_kernel_of_the_builder_that_can(spec: VmSpec) -> None:
    write_manifest(spec.kernel, "manifest.json", "initrd")
    write_manifest(spec.kernel, "vmlinux-kata.json", "initrd", "image")
    check_image(spec)


def test_a_kernel_of_the_builder_that_cannot(spec: VmSpec, tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()
    write_manifest(str(folder / "kernel"), "manifest.json", "initrd")
    Path(spec.kernel).symlink_to("versions/kernel")
    with pytest.raises(KataError, match=r"kernel \(6.1\) cannot boot from an image") as caught:
        check_image(spec)
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert "kata-image kernel" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": {"kernel": {}}, "kernel": 3}'])
def test_a_kernel_of_unknown_making_is_tried(spec: VmSpec, text: str) -> None:
    check_image(spec)
    Path(spec.kernel).with_name("manifest.json").write_text(text)
    check_image(spec)


@pytest.mark.parametrize("size", [0, 4096, (2 << 20) + 4096])
def test_an_image_of_another_size_is_refused(spec: VmSpec, size: int) -> None:
    Path(spec.image).write_bytes(bytes(size))
    with pytest.raises(KataError, match=f"has {size} bytes, which is no multiple of 2 MiB"):
        check_image(spec)
