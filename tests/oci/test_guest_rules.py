"""The guest's packet filter, and the agent's policy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runtime import Runtime

pytestmark = pytest.mark.e2e

RULES = """\
*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 15001
COMMIT
"""


def test_rules_are_set_and_shown(runtime: Runtime, shared: str, tmp_path: Path) -> None:
    file = tmp_path / "rules"
    file.write_text(RULES)
    which = ("--sandbox-id", shared)
    for version in ((), ("--v6",)):
        runtime.call("iptables", "set", *which, *version, str(file))
        shown = runtime.call("iptables", "get", *which, *version).stdout
        assert "--dport 80 -j REDIRECT --to-ports 15001" in shown
    # From standard input, and back to none.
    empty = "*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n"
    runtime.call("iptables", "set", "--v6", *which, "-", input=empty)
    assert "REDIRECT" not in runtime.call("iptables", "get", "--v6", *which).stdout
    assert "REDIRECT" in runtime.call("iptables", "get", *which).stdout


def test_bad_rules_change_nothing(runtime: Runtime, shared: str) -> None:
    which = ("--sandbox-id", shared)
    before = runtime.call("iptables", "get", *which).stdout
    bad = RULES.replace("REDIRECT", "NO_SUCH_TARGET")
    refused = runtime.call("iptables", "set", *which, "-", input=bad, check=False)
    assert refused.returncode == 1
    assert "Error occurred at line: 6" in refused.stderr
    after = runtime.call("iptables", "get", *which).stdout

    def rules(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("-A")]

    assert rules(after) == rules(before)


def test_an_agent_without_policies_says_so(runtime: Runtime, shared: str, tmp_path: Path) -> None:
    file = tmp_path / "policy.rego"
    file.write_text("package agent_policy\n")
    refused = runtime.call("policy", "set", "--sandbox-id", shared, str(file), check=False)
    assert refused.returncode == 1
    assert "SetPolicy" in refused.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("iptables", "get"), "--sandbox-id is missing"),
        (("iptables", "set", "--sandbox-id", "x"), "neither get nor set FILE"),
        (("iptables", "set", "--sandbox-id", "x", "/none"), "read /none: No such file"),
        (("iptables", "get", "--sandbox-id", "none"), "no such sandbox runs"),
        (("policy", "set", "/none"), "--sandbox-id is missing"),
        (("policy", "get", "--sandbox-id", "x"), "not set FILE"),
    ],
)
def test_wrong_words(runtime: Runtime, words: tuple[str, ...], reason: str) -> None:
    refused = runtime.call(*words, check=False)
    assert (refused.returncode, reason in refused.stderr) == (1, True), refused
