"""Kernel modules: what is chosen, and in which order."""

from __future__ import annotations

import lzma
import struct

import pytest

from kata.base.errors import KataError
from kata.image import modules


def ko(*depends: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"


FILES = {
    "virtio_pci": ko("virtio", "virtio_ring"),
    "virtio_ring": ko("virtio"),
    "virtio": ko(),
    "virtiofs": ko("fuse", "virtio", "core"),
    "fuse": ko(),
    "unused": ko(),
}
BUILTIN = frozenset({"core"})


def test_dependencies_come_first_and_share_the_stage() -> None:
    chosen = modules.select_modules(
        FILES, BUILTIN, {"virtiofs": "demand", "virtio_pci": "boot", "core": "boot"}
    )
    assert [(module.name, module.stage) for module in chosen] == [
        ("virtio", "boot"),
        ("virtio_ring", "boot"),
        ("virtio_pci", "boot"),
        ("fuse", "demand"),
        ("virtiofs", "demand"),
    ]
    assert chosen[-1].depends == ("fuse", "virtio")


def test_the_guests_list() -> None:
    chosen = modules.select_modules(FILES, BUILTIN, {"virtio_ring": "boot"})
    assert modules.render_list(chosen) == (
        "virtio /lib/modules/virtio.ko - boot -\n"
        "virtio_ring /lib/modules/virtio_ring.ko virtio boot -\n"
    )


def test_the_names_under_which_the_kernel_asks() -> None:
    info = (
        b"\0alias=rtnl-link-veth\0alias=pci:v00001AF4d*\0alias=netdev-veth\0alias=rtnl-link-veth\0"
    )
    assert modules.parse_aliases(info) == ("netdev_veth", "rtnl_link_veth")
    made = modules.Module("veth", "demand", (), b"", modules.parse_aliases(info))
    assert modules.render_list([made]).endswith(" - demand netdev_veth,rtnl_link_veth\n")


def test_all_minor_numbers_of_a_major_one() -> None:
    """The kernel asks for block-major-7-0, then for block-major-7."""
    info = b"\0alias=block-major-7-*\0alias=char-major-10-237\0alias=char-major-1*\0"
    assert modules.parse_aliases(info) == ("block_major_7", "char_major_10_237")


def test_rare_modules_are_packed() -> None:
    chosen = modules.select_modules(FILES, BUILTIN, {"fuse": "demand", "virtiofs": "rare"})
    assert [(module.stage, module.file_name) for module in chosen] == [
        ("demand", "fuse.ko"),
        ("rare", "virtio.ko.xz"),
        ("rare", "virtiofs.ko.xz"),
    ]
    assert chosen[0].pack() == chosen[0].data
    assert lzma.decompress(chosen[1].pack()) == chosen[1].data
    assert "virtio /lib/modules/virtio.ko.xz - rare -\n" in modules.render_list(chosen)


def test_what_is_missing_is_named_with_who_needs_it() -> None:
    with pytest.raises(KataError, match="kernel module fuse, needed by virtiofs: not in"):
        modules.select_modules({"virtiofs": ko("fuse")}, BUILTIN, {"virtiofs": "boot"})


def test_circles_are_named() -> None:
    with pytest.raises(KataError, match="a -> b -> a is a circle"):
        modules.select_modules({"a": ko("b"), "b": ko("a")}, BUILTIN, {"a": "boot"})


def test_a_signature_is_cut_off() -> None:
    signature = b"s" * 300
    signed = ko() + signature + struct.pack(">8xI", 300) + modules.SIGNATURE_MARKER
    assert modules.without_signature(signed) == ko()
    assert modules.without_signature(ko()) == ko()
    with pytest.raises(KataError):
        modules.without_signature(struct.pack(">8xI", 300) + modules.SIGNATURE_MARKER)


def test_compressed_modules_are_unpacked() -> None:
    chosen = modules.select_modules({"a": lzma.compress(ko())}, BUILTIN, {"a": "boot"})
    assert chosen[0].data == ko()


@pytest.mark.parametrize(
    "name", ["virtio-rng.ko", "kernel/x/virtio_rng.ko.xz", "virtio-rng.ko.zst"]
)
def test_names_as_the_kernel_has_them(name: str) -> None:
    assert modules.module_name(name) == "virtio_rng"


def test_bad_lines_are_named() -> None:
    with pytest.raises(KataError, match="'soon fuse'"):
        modules.parse_wanted("boot a # comment\n\nsoon fuse\n")
