"""Which files are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.config import load


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    paths = (tmp_path / "etc.toml", tmp_path / "usr.toml")
    monkeypatch.setattr(load, "CONFIG_PATHS", tuple(map(str, paths)))
    return paths


def test_containerd_wins_over_environment_over_usual_places(
    tmp_path: Path, usual: tuple[Path, Path]
) -> None:
    explicit, named = tmp_path / "explicit.toml", tmp_path / "named.toml"
    for path in (explicit, named, *usual):
        path.write_text("")
    environ = {"KATA_CONF_FILE": str(named)}
    assert load.find_config_path(str(explicit), environ) == str(explicit)
    assert load.find_config_path(None, environ) == str(named)
    assert load.find_config_path("", {}) == str(usual[0])
    usual[0].unlink()
    assert load.find_config_path(None, {}) == str(usual[1])


def test_a_named_file_must_exist(tmp_path: Path, usual: tuple[Path, Path]) -> None:
    usual[0].write_text("")
    missing = str(tmp_path / "missing.toml")
    for explicit, environ in ((missing, {}), (None, {"KATA_CONF_FILE": missing})):
        with pytest.raises(KataError, match=r"missing\.toml .*no such file") as caught:
            load.load_config(explicit, environ)
        assert caught.value.code == Code.NOT_FOUND


def test_no_file_at_all_names_the_places(usual: tuple[Path, Path]) -> None:
    with pytest.raises(KataError, match=r"etc\.toml, .*usr\.toml"):
        load.load_config(None, {})


def test_drop_ins_are_merged_by_name(tmp_path: Path) -> None:
    main = tmp_path / "configuration.toml"
    main.write_text("[hypervisor.qemu]\ndefault_memory = 256\n")
    drop_ins = tmp_path / "config.d"
    drop_ins.mkdir()
    (drop_ins / "20-b.toml").write_text("[hypervisor.qemu]\ndefault_memory = 1024\n")
    (drop_ins / "10-a.toml").write_text("[hypervisor.qemu]\ndefault_memory = 512\n")
    (drop_ins / "README").write_text("not TOML")
    assert load.load_config(str(main), {}).hypervisor.default_memory_mib == 1024


def test_a_mistake_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    main = tmp_path / "configuration.toml"
    main.write_text("")
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "x.toml").write_text("[runtime]\nfoo = 1\n")
    with pytest.raises(KataError, match=r"config\.d/x\.toml:2: runtime\.foo: unknown key"):
        load.load_config(str(main), {})


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    main = tmp_path / "configuration.toml"
    main.write_bytes(b"\xff")
    with pytest.raises(KataError) as caught:
        load.load_config(str(main), {})
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_a_daemon_is_chosen_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, daemon = tmp_path / "configuration.toml", tmp_path / "virtiofsd"
    main.write_text("")
    daemon.write_text("")
    monkeypatch.setattr(load, "VIRTIOFSD_PATHS", (str(tmp_path / "none"), str(daemon)))
    assert load.load_config(str(main), {}).hypervisor.virtio_fs_daemon == str(daemon)


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "configuration.toml"
    file.write_text("[hypervisor.qemu]\ndefault_memory = 300\n")
    first = load.load_config(str(file), {})
    assert load.load_config(str(file), {}) == first
    file.write_text("[hypervisor.qemu]\ndefault_memory = 301\n")
    assert load.load_config(str(file), {}).hypervisor.default_memory_mib == 301
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "10.toml").write_text("[hypervisor.qemu]\ndefault_memory = 302\n")
    assert load.load_config(str(file), {}).hypervisor.default_memory_mib == 302
    (tmp_path / "config.d" / "10.toml").unlink()
    assert load.load_config(str(file), {}).hypervisor.default_memory_mib == 301
