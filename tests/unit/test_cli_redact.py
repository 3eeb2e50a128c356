"""Secrets in texts."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cli.redact import GONE, redact


@pytest.mark.parametrize(
    "text",
    [
        'password = "hunter2"',
        "password: hunter2",
        '  "auth": "hunter2",',
        '"identitytoken":"hunter2"}',
        r'msg="{\"password\": \"hunter2\"}"',
        "agent.aa_kbc_params=x agent.secret_token=hunter2 quiet",
        "AWS_SECRET_ACCESS_KEY=hunter2",
        "Authorization: Bearer hunter2",
        "authorization: Basic hunter2",
        "https_proxy=http://user:hunter2@proxy:3128",
        "agent.https_proxy=http://hunter2@proxy",
        'cc_init_data = "hunter2"',
        "registry.password = 'hunter2'",
        "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\n",
        "-----BEGIN PRIVATE KEY-----\nhunter2",  # cut off
        "credentials = [\"a\", 'hunter2']",
        "Authorization: token hunter2",
        "authorization: Digest username=x, response=hunter2",
        "Cookie: a=b; session=hunter2",
        "password=foo,hunter2",
        r'msg="{\"password\": \"my hunter2, x\"}"',
        "passphrase: hunter2",
        "db_pass = hunter2",
        "SIGNING_KEY=hunter2",
        "run --password hunter2 x",
        "run --registry-token 'a hunter2'",
        "https://user:p/hunter2@host",
        'secret = """\na\nhunter2\n"""',
    ],
)
def test_secrets_are_left_out(text: str) -> None:
    redacted = redact(f"before\n{text}\nafter")
    assert "hunter2" not in redacted
    assert GONE in redacted
    assert redacted.startswith("before\n")


@pytest.mark.parametrize(
    "text",
    [
        'kernel = "/usr/share/kata-containers/vmlinux.container"\nenable_debug = true',
        'time="2026-01-01T00:00:00Z" level=info msg="container created" container=c1',
        'kata_guest_meminfo{item="mem_total"} 1024',
        "tcp://127.0.0.1:8090/metrics user@host",
        '"processes": [{"role": "shim", "pid": 1}]',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_the_rest_of_a_line_stays() -> None:
    assert redact('token=x next=1 "a": 2') == f'token={GONE} next=1 "a": 2'
    assert redact('{"x": "a token=b"}') == f'{{"x": "a token={GONE}"}}'
    assert redact('{"auth": "x y", "b": 1}') == f'{{"auth": "{GONE}", "b": 1}}'


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "passw",
        "a.",
        "-",
        "--",
        '\\"',
        '"',
        "'",
        "token=",
        "x://",
        "https://u:",
        "auth-",
        "-----BEGIN PRIVATE KEY",
        '"""',
        "secret = [",
        "key ",
        "--token ",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    """A guest can write a line of a megabyte; the square of that would be hours."""
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    redact(text)
    assert time.process_time() - began < 20


@given(st.text(max_size=400))
def test_any_text(text: str) -> None:
    assert redact(redact(text)).count("\n") <= text.count("\n")
