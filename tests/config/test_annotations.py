"""Settings that pods change by annotations, and what stops them."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.config.annotations import PREFIX, apply_annotations
from kata.config.parse import ConfigFile, known_keys, parse_config
from kata.config.records import Config


def config(*enabled: str) -> Config:
    made = parse_config([ConfigFile("c.toml", "")])
    hypervisor = dataclasses.replace(made.hypervisor, enable_annotations=enabled)
    return dataclasses.replace(made, hypervisor=hypervisor)


def apply(made: Config, **annotations: str) -> Config:
    return apply_annotations(
        made, {PREFIX + name.replace("__", "."): text for name, text in annotations.items()}
    )


def refused(made: Config, **annotations: str) -> KataError:
    with pytest.raises(KataError) as caught:
        apply(made, **annotations)
    assert caught.value.code == Code.INVALID_ARGUMENT
    return caught.value


def test_each_type_of_value() -> None:
    changed = apply(
        config(".*"),
        hypervisor__default_memory="1024",
        hypervisor__default_vcpus="2.5",
        hypervisor__kernel_params="a=b c",
        hypervisor__enable_debug="true",
        hypervisor__use_vsock="false",
        hypervisor__virtio_fs_extra_args='["-o", "x;y"]',
        runtime__internetworking_model="macvtap",
        agent__kernel_modules="dummy numdummies=2; loop",
        agent__sysctls="vm.nr_hugepages=8; kernel.printk = 4 4 1 7",
    )
    assert changed.hypervisor.default_memory_mib == 1024
    assert changed.hypervisor.default_vcpus == 2.5
    assert changed.hypervisor.kernel_params == "a=b c"
    assert changed.hypervisor.enable_debug is True
    assert changed.hypervisor.use_vsock == "false"
    assert changed.hypervisor.virtio_fs_extra_args == ("-o", "x;y")
    assert changed.runtime.internetworking_model == "macvtap"
    assert changed.agent.kernel_modules == ("dummy numdummies=2", "loop")
    assert changed.agent.sysctls == ("vm.nr_hugepages=8", "kernel.printk = 4 4 1 7")


def test_a_root_takes_the_place_of_the_other_kind() -> None:
    made = apply(config("image"), hypervisor__image="/x.img")
    assert (made.hypervisor.image, made.hypervisor.initrd) == ("/x.img", "")
    made = apply(config("image", "initrd"), hypervisor__image="/x.img", hypervisor__initrd="/y")
    assert (made.hypervisor.image, made.hypervisor.initrd) == ("", "/y")


def test_annotations_of_others_are_not_ours() -> None:
    made = config()
    others = {"io.kubernetes.cri.sandbox-id": "x", "io.katacontainers.pkg.oci.bundle_path": "/"}
    assert apply_annotations(made, others) is made


@pytest.mark.parametrize(
    ("enabled", "allowed"),
    [
        ("kernel", False),
        ("kernel_param", False),
        ("ernel_params", False),
        ("kernel_params", True),
        ("kernel_.*", True),
        ("hypervisor.kernel_params", True),
        ("hypervisor[.].*", True),
        ("runtime.kernel_params", False),
    ],
)
def test_patterns_are_matched_whole(enabled: str, allowed: bool) -> None:
    if allowed:
        assert apply(config(enabled), hypervisor__kernel_params="x").hypervisor.kernel_params == "x"
    else:
        error = refused(config(enabled), hypervisor__kernel_params="x")
        assert "hypervisor.kernel_params: it is not enabled" in error.message
        assert "enable_annotations" in error.hint


@pytest.mark.parametrize(
    "name",
    ["runtime__disable_guest_seccomp", "agent__kernel_modules", "runtime__disable_new_netns"],
)
def test_sections_other_than_the_hypervisors_are_gated_too(name: str) -> None:
    assert "not enabled" in refused(config("kernel_params"), **{name: "true"}).message


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("hypervisor__default_memry", "1", "no such setting"),
        ("hypervisor__default_memory", "much", "'much' is not a whole number"),
        ("hypervisor__default_memory", "1", "must be between 128"),
        ("hypervisor__enable_debug", "yes", "'yes' is not true or false"),
        ("hypervisor__virtio_fs_extra_args", "[1", "no list"),
        ("hypervisor__enable_hugepages", "true", "is not supported"),
        ("runtime__internetworking_model", "bridged", "must be one of"),
        ("hypervisor__enable_annotations", ".*", "no such setting"),
        ("hypervisor__valid_hypervisor_paths", "/bin/sh", "no such setting"),
        ("hypervisor__path", "/bin/sh", "'/bin/sh' is not allowed"),
        ("hypervisor__path", "/usr/bin/../bin/sh", "is not allowed"),
        ("hypervisor__virtio_fs_daemon", "/bin/sh", "valid_virtio_fs_daemon_paths"),
        ("agent__sysctls", "vm.nr_hugepages", "is not name=value"),
        ("agent__sysctls", "vm/../../x=1", "no such setting"),
        ("agent__sysctls", "kernel.shmmax=1", "ipc namespace"),
        ("agent__sysctls", "kernel.core_pattern=|/bin/sh", "run a program"),
        ("factory__enable_template", "true", "no such setting"),
        ("nothing", "x", "no such setting"),
        ("hypervisor__default_maxvcpus", "1", ""),
    ],
)
def test_bad_annotations_are_named(name: str, text: str, words: str) -> None:
    made = config(".*")
    if not words:
        error = refused(made, **{name: text, "hypervisor__default_vcpus": "2"})
        assert "default_maxvcpus" in error.message
        assert PREFIX + "hypervisor.default_vcpus" in error.hint
        return
    error = refused(made, **{name: text})
    assert PREFIX + name.replace("__", ".") in error.message
    assert words in f"{error.message} {error.hint}"


def test_the_nearest_is_told() -> None:
    error = refused(config(".*"), hypervisor__default_memry="1")
    assert "hypervisor.default_memory?" in error.hint


def test_unknown_annotation_of_ours() -> None:
    with pytest.raises(KataError, match=r"io\.katacontainers\.volume: it is not supported"):
        apply_annotations(config(".*"), {"io.katacontainers.volume": "x"})


def test_inactive_settings_that_ask_for_nothing_are_told() -> None:
    changed = apply(config(".*"), hypervisor__enable_hugepages="false")
    assert "enable_hugepages has no effect" in changed.warnings[-1]


@given(
    st.sampled_from(["hypervisor", "runtime", "agent", "factory", ""]),
    st.sampled_from([*known_keys("hypervisor.qemu"), *known_keys("runtime")]) | st.text(max_size=9),
    st.text(max_size=30),
)
def test_any_annotation_is_taken_or_refused(word: str, key: str, text: str) -> None:
    name = f"{PREFIX}{word}.{key}"
    failure = None
    try:
        apply_annotations(config(".*"), {name: text})
    except KataError as error:
        failure = error
    if failure is not None:
        assert failure.code == Code.INVALID_ARGUMENT
        assert name in f"{failure.message} {failure.hint}"
