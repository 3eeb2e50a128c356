"""The rules of the packet filter, read and written in a network of the agent's own."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.guest.iptables import MAX_BYTES
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2 as pb
from tests.guest.harness import AgentProcess, Host, running_agent

REDIRECT = "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080"
FAMILIES = pytest.mark.parametrize("is_ipv6", [False, True], ids=["v4", "v6"])


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    with running_agent(tmp_path / "agent.log", own_network=True) as agent:
        yield agent


def table(name: str, *rules: str) -> str:
    return "\n".join((f"*{name}", *rules, "COMMIT\n"))


def get(host: Host, *, is_ipv6: bool = False) -> list[str]:
    """Return the rules, without comments that tell the time."""
    request = pb.GetIPTablesRequest(is_ipv6=is_ipv6)
    answer = host.call("GetIPTables", request, pb.GetIPTablesResponse)
    lines = answer.data.decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def put(host: Host, rules: str, *, is_ipv6: bool = False) -> bytes:
    request = pb.SetIPTablesRequest(is_ipv6=is_ipv6, data=rules.encode())
    return host.call("SetIPTables", request, pb.SetIPTablesResponse).data


def refusal(host: Host, rules: str) -> RpcError:
    with pytest.raises(RpcError) as caught:
        put(host, rules)
    return caught.value


@FAMILIES
def test_rules_are_set_in_the_agents_network_and_read_back(host: Host, is_ipv6: bool) -> None:
    assert get(host, is_ipv6=is_ipv6) == []
    assert put(host, table("nat", REDIRECT), is_ipv6=is_ipv6) == b""
    rules = get(host, is_ipv6=is_ipv6)
    assert rules[0] == "*nat"
    assert [rule for rule in rules if rule.startswith("-A")] == [REDIRECT]
    assert get(host, is_ipv6=not is_ipv6) == []
    program = "ip6tables-save" if is_ipv6 else "iptables-save"
    listed = subprocess.run(
        ["nsenter", "--net", "--target", str(host.agent.pid), program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert REDIRECT in listed.stdout.splitlines()
    # What was read can be written.
    assert put(host, "\n".join((*rules, "")), is_ipv6=is_ipv6) == b""
    assert get(host, is_ipv6=is_ipv6) == rules


def test_only_the_tables_that_are_named_are_replaced(host: Host) -> None:
    put(host, table("nat", REDIRECT) + table("filter", "-A INPUT -j DROP"))
    put(host, table("filter", ":INPUT DROP [0:0]"))
    rules = get(host)
    assert REDIRECT in rules
    assert ":INPUT DROP [0:0]" in rules
    assert "-A INPUT -j DROP" not in rules


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (table("nat", "nonsense"), "`nonsense'.*line: 2"),
        ("nonsense", "line 1 failed"),
        (table("nat", "-A PREROUTING -p tcp --dport 99999 -j ACCEPT"), "`99999'.*line: 2"),
        (table("nat", "-A OUTPUT -j NOWHERE"), "'NOWHERE' does not exist.*line: 3"),
        (table("nonsense"), "table name 'nonsense' invalid"),
        ("*nat\n", "COMMIT expected"),
        # What only the kernel knows: a packet that comes in has no owner.
        (table("filter", "-A INPUT -m owner --uid-owner 3 -j DROP"), "line 2: RULE_APPEND failed"),
    ],
)
def test_bad_rules_are_refused_with_the_programs_words(host: Host, rules: str, reason: str) -> None:
    put(host, table("nat", REDIRECT))
    before = get(host)
    error = refusal(host, rules)
    assert error.code == Code.INVALID_ARGUMENT
    assert re.search(reason, str(error))
    assert "--help" not in str(error)
    assert get(host) == before


@pytest.mark.parametrize("last", ["raw", "filter"])
def test_bad_rules_leave_the_tables_before_them_alone(host: Host, last: str) -> None:
    put(host, table("filter", ":INPUT DROP [0:0]", "-A INPUT -p tcp -j ACCEPT"))
    before = get(host)
    changed = table("filter", "-A INPUT -j ACCEPT") + table("nat", REDIRECT)
    error = refusal(host, changed + table(last, "-A OUTPUT -j NOWHERE"))
    assert error.code == Code.INVALID_ARGUMENT
    assert re.search("'NOWHERE' does not exist", str(error))
    assert get(host) == before


def test_bad_rules_leave_a_table_that_is_named_twice_alone(host: Host) -> None:
    put(host, table("nat", REDIRECT))
    before = get(host)
    refusal(host, table("nat", "-A OUTPUT -j ACCEPT") + table("nat", "-A OUTPUT -j NOWHERE"))
    assert get(host) == before


def test_too_many_rules_are_refused(host: Host) -> None:
    error = refusal(host, "#" * (MAX_BYTES + 1))
    assert error.code == Code.RESOURCE_EXHAUSTED
    assert re.search(f"{MAX_BYTES + 1} bytes exceed the limit", str(error))


def test_as_many_rules_as_may_be(host: Host) -> None:
    rules = "-A INPUT -s 10.0.0.0/8 -j ACCEPT\n" * 30_000
    put(host, table("filter", rules.rstrip()))
    assert get(host).count("-A INPUT -s 10.0.0.0/8 -j ACCEPT") == 30_000
