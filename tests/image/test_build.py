"""The real thing: packages of Debian become a guest image."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.image import cpio, elf, inputs, packages, store
from kata.image.build import BuildRequest, build_image
from kata.image.main import main

CACHE = "/var/cache/kata-image"
# The promise; the size counts in every start, as the kernel unpacks it.
UNPACKED_MAX_BYTES = 26_000_000
ZSTD_MAX_BYTES = 9_000_000


def build(output: Path, **options: str) -> dict[str, object]:
    return build_image(BuildRequest(str(output), CACHE, **options), lambda _text: None)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give a copy of our code that nobody edits while the tests run."""
    folder = tmp_path_factory.mktemp("source")
    for shipped in inputs.shipped_folders(inputs.find_sources().kata_root):
        shutil.copytree(
            shipped,
            folder / "kata" / Path(shipped).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    (folder / "kata/__init__.py").touch()
    return str(folder)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, source: str) -> Path:
    folder = tmp_path_factory.mktemp("image")
    build(folder, kata_root=source)
    return folder


@pytest.fixture(scope="module")
def entries(image: Path) -> dict[str, cpio.Entry]:
    archive = (image / store.INITRD).read_bytes()
    return {entry.name: entry for entry in cpio.parse_archive(archive)}


def test_the_kernel_can_be_started_at_once(image: Path) -> None:
    assert elf.has_pvh_entry((image / store.KERNEL).read_bytes())


def test_the_initrd_has_what_the_agent_needs(entries: dict[str, cpio.Entry]) -> None:
    assert entries["init"].data.startswith(b"#!/usr/bin/python3 -IS\n")
    assert entries["init"].mode & 0o111
    assert entries["dev/console"].device == (5, 1)
    for name in (
        "usr/bin/python3",
        "usr/bin/crun",
        "usr/lib64/ld-linux-x86-64.so.2",
        "usr/lib/kata/kata/guest/init.pyc",
        "usr/lib/kata/google/_upb/_message.abi3.so",
        "usr/lib/modules/virtiofs.ko",
    ):
        assert entries[name].data, name


def test_the_initrd_has_nothing_else_of_ours(entries: dict[str, cpio.Entry]) -> None:
    ours = {name.split("/")[4] for name in entries if name.startswith("usr/lib/kata/kata/")}
    assert ours - {"__init__.pyc"} <= set(inputs.SHIPPED)
    assert not [name for name in entries if name.endswith(".py")]


def test_the_guest_has_a_shell_and_its_commands(
    entries: dict[str, cpio.Entry], tmp_path: Path
) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(entries["usr/bin/busybox"].data)
    busybox.chmod(0o755)
    done = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    names = {
        name.removeprefix("usr/bin/")
        for name, entry in entries.items()
        if stat.S_ISLNK(entry.mode) and entry.data == b"busybox"
    }
    assert names >= {"sh", "ls", "ps", "cat", "ip", "mount", "dmesg", "top", "vi"}
    assert names <= set(done.stdout.split())


def test_the_guests_iptables_has_all_it_needs(
    entries: dict[str, cpio.Entry], tmp_path: Path
) -> None:
    """Run it from the image's files alone, in a network of its own."""
    for name, entry in entries.items():
        path = tmp_path / name
        if stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.data.decode())
        elif stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif stat.S_ISREG(entry.mode):
            path.write_bytes(entry.data)
            path.chmod(0o755)
    rule = "-A OUTPUT -p tcp -m tcp --dport 80 -m comment --comment x -j REDIRECT --to-ports 8080"
    script = """
    for family in ip ip6; do
        printf '*nat\n%s\nCOMMIT\n' "$1" | ${family}tables-restore && ${family}tables-save
    done
    """
    done = subprocess.run(
        ["unshare", "--net", "chroot", tmp_path, "/bin/sh", "-c", script, "sh", rule],
        env={"PATH": "/usr/sbin:/usr/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines().count(rule) == 2


def test_a_link_to_no_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(inputs.DATA_FOLDER, tmp_path, dirs_exist_ok=True)
    (tmp_path / "links.txt").write_text("/usr/bin/nothing sh\n")
    monkeypatch.setattr(inputs, "DATA_FOLDER", str(tmp_path))
    with pytest.raises(KataError, match=r"links\.txt: /usr/bin/nothing is not in programs\.txt"):
        inputs.load_recipe()


def test_the_size_stays_in_its_limits(image: Path) -> None:
    archive = image / store.INITRD
    assert archive.stat().st_size <= UNPACKED_MAX_BYTES
    packed = subprocess.run(
        ["zstd", "-19", "-c", str(archive.resolve())], capture_output=True, check=True
    )
    assert len(packed.stdout) <= ZSTD_MAX_BYTES


def test_the_manifest_names_the_sources(image: Path) -> None:
    manifest = json.loads((image / store.MANIFEST).read_text())
    assert manifest["packages"].keys() >= {"crun", "libc6", "python3.11-minimal"}
    assert manifest["kernel"]["version"].endswith("-cloud-amd64")
    # What an image needs is in Debian's kernel as modules.
    assert manifest["kernel"]["boots_from"] == ["initrd"]
    assert manifest["protobuf"]


def test_the_same_inputs_give_the_same_bytes(image: Path, source: str, tmp_path: Path) -> None:
    build(tmp_path, kata_root=source)
    for name in store.image_shelf(str(image)).names:
        assert (tmp_path / name).read_bytes() == (image / name).read_bytes(), name


def test_nothing_is_done_when_nothing_changed(image: Path, source: str) -> None:
    before = (image / store.INITRD).resolve().stat()
    start = time.monotonic()
    assert main(["build", "--output", str(image), "--source", source]) == 0
    assert time.monotonic() - start < 2
    assert (image / store.INITRD).resolve().stat() == before


def test_a_change_of_the_agent_is_noticed(source: str, tmp_path: Path) -> None:
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "kata/guest/init.py").open("a") as file:
        file.write("\nCHANGED = True\n")
    recipe = inputs.load_recipe()
    found = packages.find_packages(recipe.packages)
    keys = {
        inputs.input_key(found, inputs.find_sources(root), ("none", ""))
        for root in (source, str(tmp_path))
    }
    assert len(keys) == 2


def test_without_an_agent_nothing_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["build", "--output", str(tmp_path / "out"), "--source", str(tmp_path)])
    assert code == 1
    assert f"no module kata.guest.init below {tmp_path}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_imports_of_the_hosts_code_are_refused(tmp_path: Path) -> None:
    for name in ("guest", "host"):
        (tmp_path / "kata" / name).mkdir(parents=True)
        (tmp_path / "kata" / name / "__init__.py").touch()
    (tmp_path / "kata/__init__.py").touch()
    (tmp_path / "kata/guest/init.py").write_text("import kata.host\n")
    (tmp_path / "kata/guest/modprobe.py").touch()
    with pytest.raises(KataError, match=r"ship kata\.host: the guest has only kata\.base, "):
        build(tmp_path / "out", kata_root=str(tmp_path))
    assert [path.name for path in (tmp_path / "out/versions").iterdir()] == [".lock"]


def test_an_unknown_package_is_named() -> None:
    with pytest.raises(KataError, match="find package no-such-package: apt does not") as caught:
        packages.find_packages(["crun", "no-such-package"])
    assert caught.value.code == Code.NOT_FOUND


def test_a_damaged_download_is_fetched_again(tmp_path: Path) -> None:
    (package,) = packages.find_packages(["libyajl2"])
    (tmp_path / package.file_name).write_bytes(b"half a file")
    path = packages.download_package(package, str(tmp_path))
    tree = packages.read_package(path, lambda _path: True)
    library = packages.resolve_file(tree, "/usr/lib/x86_64-linux-gnu/libyajl.so.2")
    assert library
    assert elf.is_elf(library.data)
