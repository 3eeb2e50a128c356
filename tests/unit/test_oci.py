"""The OCI spec reader takes anything: a message comes out, or a KataError."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kata.base.errors import Code, KataError
from kata.host.sandbox.plan import GuestRules, plan_container
from kata.oci.bundle import load_spec, parse_spec
from kata.oci.convert import convert_process, convert_resources, convert_spec
from kata.rpc.pb import oci_pb2

TEXT = st.text() | st.sampled_from(["\ud800", "\0", "x" * 200])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


def names_below(descriptor: Any, seen: set[str]) -> set[str]:
    """Return every name of a field in a message and those in it."""
    names: set[str] = set()
    for field in descriptor.fields:
        names.add(field.name[:1].lower() + field.name[1:])
        if field.message_type is not None and field.message_type.full_name not in seen:
            seen.add(field.message_type.full_name)
            names |= names_below(field.message_type, seen)
    return names


KEYS = st.sampled_from(sorted(names_below(oci_pb2.Spec.DESCRIPTOR, set()) | {"args", "ociVersion"}))
# Known keys at random places, with values of random types.
SPEC_LIKE = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    ),
    max_size=8,
)


@contextmanager
def or_refused(*codes: int) -> Iterator[None]:
    """Take a KataError with one of ``codes`` for an answer too."""
    try:
        yield
    except KataError as error:
        if error.code not in codes:
            raise


def convert_or_refuse(document: Any) -> None:
    for convert in (convert_spec, convert_process, convert_resources):
        with or_refused(Code.INVALID_ARGUMENT):
            convert(document)


@settings(max_examples=400, deadline=None)
@given(SPEC_LIKE)
def test_any_spec_converts_or_is_refused(document: dict[str, Any]) -> None:
    convert_or_refuse(document)


@settings(max_examples=150, deadline=None)
@given(ANYTHING)
def test_anything_converts_or_is_refused(document: Any) -> None:
    convert_or_refuse(document)


@settings(max_examples=400, deadline=None)
@given(SPEC_LIKE, SPEC_LIKE, SPEC_LIKE)
def test_any_spec_is_planned_or_refused(
    document: dict[str, Any], process: dict[str, Any], linux: dict[str, Any]
) -> None:
    spec = {
        **document,
        "process": {**process, "args": ["x"]},
        "root": {"path": "rootfs"},
        "linux": linux,
    }
    with or_refused(Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED):
        plan = plan_container("c1", spec, GuestRules())
        convert_spec(plan.spec)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_parse_or_are_refused(text: bytes) -> None:
    with or_refused(Code.INVALID_ARGUMENT):
        assert isinstance(parse_spec(text, "config.json"), dict)


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"process": {"user": {"uid": -1}}}, "config.json.process.user.uid"),
        ({"process": {"user": {"additionalGids": [1 << 40]}}}, "additionalGids[0]"),
        ({"process": {"args": ["a", 3]}}, "process.args[1]"),
        ({"process": {"env": ["\ud800"]}}, "process.env[0]"),
        ({"annotations": {"a": "\ud800"}}, "annotations.a"),
        ({"annotations": {"a": 1}}, "annotations.a"),
        ({"linux": {"sysctl": {"\ud800": "1"}}}, "sysctl"),
        ({"hostname": "\ud800"}, "hostname"),
        ({"process": {"terminal": "yes"}}, "process.terminal"),
    ],
)
def test_error_names_the_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(KataError) as caught:
        convert_spec(document)
    assert path in str(caught.value)


def test_bundle(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"ociVersion": "1.0.2"}')
    assert load_spec(str(tmp_path)) == {"ociVersion": "1.0.2"}


def test_bundle_without_config(tmp_path: Path) -> None:
    with pytest.raises(KataError, match=r"config\.json is missing") as caught:
        load_spec(str(tmp_path))
    assert caught.value.code == Code.NOT_FOUND


def test_bundle_whose_config_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(KataError, match="Is a directory") as caught:
        load_spec(str(tmp_path))
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_bundle_whose_config_is_endless(tmp_path: Path) -> None:
    (tmp_path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(KataError, match="larger than") as caught:
        load_spec(str(tmp_path))
    assert caught.value.code == Code.INVALID_ARGUMENT
