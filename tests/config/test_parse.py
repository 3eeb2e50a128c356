"""Keys, types, values and their messages."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest

from kata.base.errors import Code, KataError
from kata.config.inactive import INACTIVE
from kata.config.parse import SECTIONS, ConfigFile, facts_of, parse_config, settings_of
from kata.config.records import Config


def parse(text: str, *more: str) -> Config:
    files = [ConfigFile(f"{number}.toml", text) for number, text in enumerate((text, *more))]
    return parse_config(files)


def refusal(text: str) -> KataError:
    with pytest.raises(KataError) as caught:
        parse(text)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value


def test_nothing_given_gives_the_defaults() -> None:
    config = parse("")
    assert config.hypervisor.path == "/usr/bin/qemu-system-x86_64"
    assert config.agent.dial_timeout_s == 45
    assert config.warnings == ()


def test_defaults_pass_their_own_checks() -> None:
    for section in SECTIONS:
        for key, field in settings_of(section).items():
            default: Any = field.default
            assert facts_of(field).check(default) == "", key
            assert facts_of(field).documentation.endswith("."), key


def test_no_key_is_both_active_and_inactive() -> None:
    assert set(SECTIONS) <= set(INACTIVE)
    for section in SECTIONS:
        assert not settings_of(section).keys() & INACTIVE[section].keys()


def test_values_arrive_with_their_types() -> None:
    config = parse(
        "[hypervisor.qemu]\ndefault_memory = 256\ndefault_vcpus = 2\nenable_debug = true\n"
        'virtio_fs_extra_args = ["-d"]\n[agent.kata]\ndial_timeout = 7\n'
    )
    assert config.hypervisor.default_memory_mib == 256
    assert config.hypervisor.default_vcpus == 2.0
    assert isinstance(config.hypervisor.default_vcpus, float)
    assert config.hypervisor.enable_debug is True
    assert config.hypervisor.virtio_fs_extra_args == ("-d",)
    assert config.agent.dial_timeout_s == 7


def test_later_files_win_key_by_key() -> None:
    config = parse(
        "[hypervisor.qemu]\ndefault_memory = 256\nmemory_slots = 3\n",
        "[hypervisor.qemu]\ndefault_memory = 384\n",
    )
    assert (config.path, config.hypervisor.default_memory_mib) == ("0.toml", 384)
    assert config.hypervisor.memory_slots == 3


def test_an_image_takes_the_place_of_the_default_initrd() -> None:
    made = parse("[hypervisor.qemu]\nimage = '/x.img'").hypervisor
    assert (made.image, made.initrd) == ("/x.img", "")
    made = parse("").hypervisor
    assert (made.image, bool(made.initrd)) == ("", True)


@pytest.mark.parametrize(
    ("value", "expected"), [("true", "true"), ("false", "false"), ('"auto"', "auto")]
)
def test_use_vsock_takes_booleans_as_upstream_has_them(value: str, expected: str) -> None:
    assert parse(f"[hypervisor.qemu]\nuse_vsock = {value}").hypervisor.use_vsock == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "[hypervisor.qemu]\n\ndefault_memroy = 1",
            "read 0.toml:3: hypervisor.qemu.default_memroy: unknown key",
            "did you mean default_memory?",
        ),
        (
            "[hypervisor.qemo]\npath = '/x'",
            "read 0.toml:1: hypervisor.qemo: unknown section",
            "did you mean hypervisor.qemu?",
        ),
        (
            "[runtime]\nenable_debug = 1",
            "read 0.toml:2: runtime.enable_debug: 1 is not true or false",
            "",
        ),
        (
            "[hypervisor.qemu]\ndefault_memory = true",
            "read 0.toml:2: hypervisor.qemu.default_memory: true is not a whole number",
            "",
        ),
        (
            "[hypervisor.qemu]\ndefault_memory = 16",
            "read 0.toml:2: hypervisor.qemu.default_memory: 16 must be between 128 and "
            "1.67772e+07 MiB",
            "",
        ),
        (
            "[hypervisor.qemu]\naccel = 'xen'",
            "read 0.toml:2: hypervisor.qemu.accel: 'xen' must be one of 'auto', 'kvm', 'tcg'",
            "",
        ),
        (
            "[hypervisor.qemu]\nenable_hugepages = true",
            "read 0.toml:2: hypervisor.qemu.enable_hugepages: true is not supported",
            "only false is",
        ),
        (
            "[hypervisor.qemu]\nimage = '/x.img'\ninitrd = '/y.img'",
            'read 0.toml:2: hypervisor.qemu.image: excludes initrd; set initrd = ""',
            "",
        ),
        (
            "[hypervisor.qemu]\nimage = ''\ninitrd = ''",
            "read 0.toml:3: hypervisor.qemu.initrd: initrd or image must be set",
            "",
        ),
        (
            "[hypervisor.qemu]\ndisable_image_nvdimm = true",
            "read 0.toml:2: hypervisor.qemu.disable_image_nvdimm: true is not supported",
            "only false is",
        ),
        (
            "[hypervisor.qemu]\nvirtio_fs_extra_args = ['a', 1]",
            "read 0.toml:2: hypervisor.qemu.virtio_fs_extra_args: ['a', 1] is not a list of texts",
            "",
        ),
        (
            "[runtime]\ndisable_new_netns = true",
            'read 0.toml:2: runtime.disable_new_netns: needs internetworking_model = "none"',
            "",
        ),
        (
            "[hypervisor.qemu]\nvirtio_fs_cache_size = 1024",
            "read 0.toml:2: hypervisor.qemu.virtio_fs_cache_size: 1024 is not supported yet",
            "",
        ),
        (
            "[hypervisor.qemu]\ndefault_vcpus = nan",
            "read 0.toml:2: hypervisor.qemu.default_vcpus: nan must be between -1 and 1024",
            "",
        ),
        ("path = '/x'", "read 0.toml:1: path: key outside of a section", ""),
        (
            "[hypervisor]\nqemu = 1",
            "read 0.toml:1: hypervisor: hypervisor.qemu must be a section",
            "",
        ),
    ],
)
def test_mistakes_are_named(text: str, message: str, hint: str) -> None:
    error = refusal(text)
    assert (error.message, error.hint) == (message, hint)


def test_kernel_parameters_stay_on_one_line() -> None:
    error = refusal('[hypervisor.qemu]\nkernel_params = "a\\nb"')
    assert "must not contain control characters" in error.message


def test_broken_toml_names_the_line() -> None:
    assert re.fullmatch(r"read 0\.toml: .*line 2.*", refusal("[runtime]\nx = \ny = 1").message)


def test_deep_nesting_is_an_error_as_any_other() -> None:
    refusal("[runtime]\nx = " + "[" * 20000)


def test_neutral_values_of_upstream_give_one_warning_each() -> None:
    config = parse("[hypervisor.qemu]\nmsize_9p = 8192\nenable_hugepages = false\n")
    assert config.warnings == (
        "0.toml: hypervisor.qemu.msize_9p has no effect",
        "0.toml: hypervisor.qemu.enable_hugepages has no effect",
    )


def test_inactive_values_are_compared_with_their_type() -> None:
    refusal("[hypervisor.qemu]\nenable_hugepages = 0")
    refusal("[runtime]\nexperimental = ['newstore']")


def test_upstream_sections_of_version_1_are_known() -> None:
    config = parse('[proxy.kata]\npath = "/x"\n[shim.kata]\npath = "/y"\n[netmon]\npath = "/z"\n')
    assert len(config.warnings) == 3


def test_every_check_refuses_something() -> None:
    for section in SECTIONS:
        for key, field in settings_of(section).items():
            facts = facts_of(field)
            if facts.check.__name__ == "anything":
                assert type(field.default) is bool, key


def test_records_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse("").path = "x"  # type: ignore[misc]
