"""A network for pods: a bridge of its own, addresses of both families, host ports."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLUGINS = "/usr/lib/cni"
NAME = "kata-tests"
# The bridge plug-in turns these on for the whole host.
FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


@dataclass(frozen=True, slots=True)
class Network:
    """A bridge with its subnets; several may exist at once."""

    number: int
    # Where the CNI configuration and the reservations of host-local are.
    folder: Path

    @property
    def bridge(self) -> str:
        """The bridge's name, at most 15 bytes."""
        return f"kata-cni{self.number}"

    @property
    def subnet(self) -> str:
        """The pods' IPv4 addresses."""
        return f"10.77.{self.number}.0/24"

    @property
    def gateway(self) -> str:
        """The host's address on the bridge."""
        return f"10.77.{self.number}.1"

    @property
    def subnet6(self) -> str:
        """The pods' IPv6 addresses."""
        return f"fd77:{self.number}::/64"

    @property
    def gateway6(self) -> str:
        """The host's IPv6 address on the bridge."""
        return f"fd77:{self.number}::1"

    @property
    def configuration(self) -> Path:
        """The folder for containerd's ``conf_dir``."""
        return self.folder / "net.d"

    def list_reservations(self) -> set[str]:
        """Return the addresses that host-local holds for pods."""
        return {
            path.name
            for path in (self.folder / "reserved").glob("*/*")
            if path.name != "lock" and not path.name.startswith("last_reserved")
        }

    def list_ports(self) -> set[str]:
        """Return the pods' ends of veth pairs on the bridge."""
        return {path.name for path in Path(f"/sys/class/net/{self.bridge}/brif").iterdir()}


@contextmanager
def make_network(folder: Path) -> Iterator[Network]:
    """Make a bridge that nobody else has, and take it away at the end."""
    switches = {
        path: path.read_text() for path in (Path("/proc/sys") / name for name in FORWARDING)
    }
    network = _claim_bridge(folder)
    network.configuration.mkdir(parents=True)
    text = json.dumps(_render_configuration(network), indent=2)
    (network.configuration / "10-pods.conflist").write_text(text)
    try:
        yield network
    finally:
        subprocess.run(["ip", "link", "delete", network.bridge], check=True)
        for path, value in switches.items():
            path.write_text(value)


def list_rules() -> set[str]:
    """Return the rules and chains of iptables that name a pod's network, of both families."""
    found = set()
    for program in ("iptables", "ip6tables"):
        command = [program, "-w", "10", "-t", "nat", "-S"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # Chains without a hash stay: they are portmap's for all pods.
        found |= {
            f"{program} {line}" for line in text.splitlines() if "CNI-DN-" in line or NAME in line
        }
    return found


def list_namespaces() -> set[str]:
    """Return the names of network namespaces."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _claim_bridge(folder: Path) -> Network:
    for number in range(1, 255):
        network = Network(number, folder)
        command = ["ip", "link", "add", network.bridge, "type", "bridge"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return network
    raise AssertionError("no bridge could be made")


def _render_configuration(network: Network) -> dict[str, object]:
    bridge = {
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": str(network.folder / "reserved"),
            "ranges": [[{"subnet": network.subnet}], [{"subnet": network.subnet6}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    ports = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": NAME, "plugins": [bridge, ports]}
