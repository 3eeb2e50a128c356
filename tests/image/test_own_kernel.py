"""A kernel from Debian's source, up to the compiler: tools, source, and every option's effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.image import kconfig, own_kernel, packages, store
from kata.image.main import main

CACHE = "/var/cache/kata-image"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kernel's source."""
    folder = str(tmp_path_factory.mktemp("kernel") / "source")
    own_kernel.unpack_source(own_kernel.find_source(), CACHE, folder)
    return folder


def test_every_option_takes_effect(tree: str) -> None:
    made = kconfig.parse_options(own_kernel.configure(tree, own_kernel.load_wanted()), ".config")
    assert "m" not in made.values()
    assert "MODULES" not in made or made["MODULES"] == kconfig.OFF


def test_options_without_effect_are_named(tree: str, tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text("# CONFIG_NET is not set\nCONFIG_NO_SUCH_THING=y\n")
    with pytest.raises(KataError, match="options have no effect") as caught:
        own_kernel.configure(tree, own_kernel.load_wanted(str(extra)))
    for name in ("CONFIG_NO_SUCH_THING=y (is n)", "CONFIG_WIREGUARD=y (is n)"):
        assert name in str(caught.value)


def test_all_tools_that_are_missing_are_named() -> None:
    tools = {"sh": "dash", "no-such-tool": "some", "/usr/include/nothing.h": "other-dev"}
    with pytest.raises(KataError, match="build kernel: other-dev, some not installed") as caught:
        own_kernel.check_tools(tools)
    assert caught.value.code == Code.FAILED_PRECONDITION
    assert "apt-get install --no-install-recommends other-dev some" in caught.value.hint


def test_the_users_options_win(tmp_path: Path) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text("CONFIG_NR_CPUS=4\n# CONFIG_XFS_FS is not set\nCONFIG_ISO9660_FS=y\n")
    wanted = own_kernel.load_wanted(str(extra))
    assert (wanted["NR_CPUS"], wanted["XFS_FS"], wanted["ISO9660_FS"]) == ("4", "n", "y")
    assert wanted["OVERLAY_FS"] == "y"


@pytest.mark.parametrize("content", ["CONFIG_A=", "\xff"], ids=["line", "bytes"])
def test_bad_options_of_the_user_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    extra = tmp_path / "extra.config"
    extra.write_text(content, encoding="latin-1")
    folder = tmp_path / "out"
    assert main(["kernel", "--output", str(folder), "--config", str(extra)]) == 1
    assert f"kata-image: read {extra}" in capsys.readouterr().err
    assert not folder.exists()


def test_every_input_counts() -> None:
    source = packages.Package("linux-source-6.1", "1", "all", "abc", ())
    other = packages.Package("linux-source-6.1", "2", "all", "abd", ())
    keys = {
        own_kernel.kernel_key(source, {"A": "y"}, "gcc 12"),
        own_kernel.kernel_key(other, {"A": "y"}, "gcc 12"),
        own_kernel.kernel_key(source, {"A": "n"}, "gcc 12"),
        own_kernel.kernel_key(source, {"A": "y"}, "gcc 13"),
    }
    assert len(keys) == 4


def test_kernel_and_image_are_kept_apart(tmp_path: Path) -> None:
    for shelf in (store.image_shelf(str(tmp_path)), store.kernel_shelf(str(tmp_path))):
        with store.locked(shelf):
            for letter in "abc":
                with store.scratch_folder(shelf) as scratch:
                    made = Path(scratch, "made")
                    made.mkdir()
                    for name in shelf.names:
                        (made / name).write_text(letter)
                    store.publish_version(shelf, str(made), letter * 64)
                store.prune_versions(shelf)
    found = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*"))
    assert found == [
        *("kernels/.lock", "kernels/" + "b" * 12, "kernels/" + "c" * 12),
        *("versions/.lock", "versions/" + "b" * 12, "versions/" + "c" * 12),
    ]
    assert (tmp_path / store.KERNEL).read_text() == "c"
    assert (tmp_path / store.OWN_KERNEL).read_text() == "c"
