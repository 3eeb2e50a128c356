"""What the agent asks of a guest's kernel: the packet filter, and file systems that grow.

The own kernel is tried where it was built (see tests.e2e.test_guests).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kata.base.errors import Code
from kata.host.hypervisor.spec import BlockDevice
from kata.host.sandbox.sandbox import Sandbox
from kata.rpc.client import RpcError
from kata.rpc.pb import agent_pb2
from tests.support.configuration import write_configuration
from tests.support.guests import OWN_KERNEL, OWN_WITH_IMAGE
from tests.vm.conftest import booted
from tests.vm.test_machine import wait_for

pytestmark = pytest.mark.vm

GUESTS = ("Debian's kernel", "own kernel")
VOLUME = "/run/kata-containers/sandbox/volume"
MIB = 1 << 20
# What a service mesh sets up.
RULES = (
    "-A PREROUTING -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080",
    "-A OUTPUT -p tcp -m owner --uid-owner 1337 -j RETURN",
    '-A OUTPUT -p tcp -m multiport --dports 80,443 -m comment --comment "to the proxy" -j REDIRECT'
    " --to-ports 15001",
)
# Each extension that the image has, in tables of both families.
EVERYTHING = """
*raw
-A PREROUTING -p udp -m limit --limit 3/sec -m udp --dport 53 -j CT --zone 1
-A OUTPUT -j NOTRACK
COMMIT
*mangle
-A PREROUTING -p tcp -m socket -j MARK --set-mark 1
-A PREROUTING -p tcp -m mark --mark 1 -j CONNMARK --save-mark
-A PREROUTING -p tcp -m tcp --dport 80 -j TPROXY --on-port 15006
COMMIT
*nat
-A PREROUTING -m addrtype --dst-type LOCAL -j DNAT --to-destination {address}
-A PREROUTING -p tcp -j REDIRECT --to-ports 15006
-A OUTPUT -p tcp -m owner --uid-owner 1337 -m multiport --dports 80,443 -j RETURN
-A POSTROUTING -m comment --comment "to the world" -j MASQUERADE
-A POSTROUTING -m connmark --mark 1 -j SNAT --to-source {address}
COMMIT
*filter
-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A INPUT -m state --state NEW -j REJECT
-A INPUT {ping} -j ACCEPT
COMMIT
"""


@pytest.fixture(scope="module")
def own_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A guest of the own kernel and the image, in which all drivers are built in."""
    if not os.path.exists(OWN_KERNEL):
        pytest.skip("no kernel was built")
    path = tmp_path_factory.mktemp("own") / "configuration.toml"
    with booted(f"vm-own-{os.getpid()}", write_configuration(path, **OWN_WITH_IMAGE)) as made:
        yield made


@pytest.fixture(params=GUESTS)
def guest(request: pytest.FixtureRequest) -> Sandbox:
    made = request.getfixturevalue("sandbox" if request.param == GUESTS[0] else "own_guest")
    assert isinstance(made, Sandbox)
    return made


def render(*rules: str) -> bytes:
    return "\n".join(("*nat", *rules, "COMMIT\n")).encode()


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["v4", "v6"])
def test_rules_of_the_packet_filter(guest: Sandbox, is_ipv6: bool) -> None:
    guest.agent.set_iptables(render(*RULES), is_ipv6=is_ipv6)
    rules = guest.agent.get_iptables(is_ipv6=is_ipv6)
    assert [line for line in rules.decode().splitlines() if line.startswith("-A")] == list(RULES)
    with pytest.raises(RpcError, match="'NOWHERE' does not exist") as caught:
        guest.agent.set_iptables(render("-A OUTPUT -j NOWHERE"), is_ipv6=is_ipv6)
    assert caught.value.code == Code.INVALID_ARGUMENT
    kept = guest.agent.get_iptables(is_ipv6=is_ipv6)
    assert [line for line in kept.decode().splitlines() if line.startswith("-A")] == list(RULES)


@pytest.mark.parametrize("is_ipv6", [False, True], ids=["v4", "v6"])
def test_each_extension_has_its_kernel_side(guest: Sandbox, is_ipv6: bool) -> None:
    ping = "-p ipv6-icmp -m icmp6 --icmpv6-type 128" if is_ipv6 else "-p icmp -m icmp --icmp-type 8"
    rules = EVERYTHING.format(ping=ping, address="2001:db8::1" if is_ipv6 else "192.0.2.1")
    guest.agent.set_iptables(rules.encode(), is_ipv6=is_ipv6)
    found = guest.agent.get_iptables(is_ipv6=is_ipv6).decode()
    assert found.count("\n-A ") == rules.count("\n-A ")


def test_a_volume_grows(own_guest: Sandbox, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    subprocess.run(["mkfs.ext4", "-q", disk, "64M"], check=True)
    os.truncate(disk, 256 * MIB)
    own_guest.hypervisor.plug_block(BlockDevice("disk0", str(disk), False, False))
    wait_for(own_guest, "kata_guest_diskstat", "disk", "vda", there=True)
    storage = agent_pb2.Storage(
        driver="ephemeral", source="/dev/vda", fstype="ext4", mount_point=VOLUME
    )
    own_guest.agent.warm([storage])
    before = own_guest.agent.measure_volume(VOLUME).usage[0]
    assert before.total < 64 * MIB
    with pytest.raises(RpcError, match=f"device has {256 * MIB} bytes"):
        own_guest.agent.resize_volume(VOLUME, 257 * MIB)
    for _ in range(2):  # nothing is left to do for the second
        own_guest.agent.resize_volume(VOLUME, 256 * MIB)
        assert own_guest.agent.measure_volume(VOLUME).usage[0].total > 200 * MIB
