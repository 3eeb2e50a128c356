"""Networks of other kinds: ptp, several interfaces, macvlan, and the models of connecting them."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pods.conftest import FOLDER_PREFIX, remove_all
from tests.support.cni import list_rules
from tests.support.configuration import write_configuration
from tests.support.cri.bed import SETTINGS, Node, make_node
from tests.support.cri.client import CriError
from tests.support.cri.pods import Container, Pod, render_pod

pytestmark = pytest.mark.e2e

MODEL = "io.katacontainers.config.runtime.internetworking_model"
# A handler of its own for each folder of networks; several networks are one interface each.
HANDLER = """\
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.NAME]
      runtime_type = "io.containerd.kata.v2"
      cni_conf_dir = "{folder}/NAME"
      cni_max_conf_num = 2
"""
PTP_NET = "10.78.0.0/24"
FIRST_NET = "10.79.0.0/24"
SECOND_NET = "10.80.0.0/24"
SECOND_NET6 = "fd80::/64"
# The host's link below the macvlans.
PARENT = "kata-parent"


def run_ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, timeout=20)


def address_plan(folder: Path, subnet: str, *routes: str) -> dict[str, Any]:
    return {
        "type": "host-local",
        "dataDir": f"{folder}/cni/reserved",
        "ranges": [[{"subnet": subnet}]],
        "routes": [{"dst": route} for route in routes],
    }


def write_network(folder: Path, name: str, *plugins: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    network = {"cniVersion": "0.4.0", "name": name.partition("-")[2], "plugins": plugins}
    (folder / f"{name}.conflist").write_text(json.dumps(network))


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A node with three networks, whose pods may choose how they are connected."""
    handlers = "".join(HANDLER.replace("NAME", name) for name in ("ptp", "two"))
    with tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX) as name:
        folder = Path(name)
        file = write_configuration(
            folder / "kata.toml", enable_annotations=["runtime.internetworking_model"]
        )
        ptp = {"type": "ptp", "mtu": 1400}
        ports = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
        plan = address_plan(folder, PTP_NET, "0.0.0.0/0")
        write_network(
            folder / "ptp", "10-kata-tests-ptp", {**ptp, "ipMasq": True, "ipam": plan}, ports
        )
        plan = address_plan(folder, FIRST_NET)
        write_network(folder / "two", "10-kata-tests-first", {**ptp, "ipam": plan})
        macvlan = {"type": "macvlan", "master": PARENT, "mode": "bridge"}
        plan = address_plan(folder, SECOND_NET, "10.81.0.0/16")
        plan["ranges"].append([{"subnet": SECOND_NET6}])
        write_network(folder / "two", "20-kata-tests-second", {**macvlan, "ipam": plan})
        run_ip(f"link add {PARENT} type veth peer name {PARENT}-p")
        try:
            run_ip(f"link set {PARENT} up")
            run_ip(f"link set {PARENT}-p up")
            with make_node(folder, SETTINGS + handlers, configuration=file) as node:
                yield node
        finally:
            run_ip(f"link delete {PARENT}")


@pytest.fixture
def pods(node: Node) -> Iterator[list[Pod]]:
    """Pods of that node; nothing may be left of them."""
    made: list[Pod] = []
    yield made
    remove_all(made)


def serve(pod: Pod, port: int = 80) -> Container:
    """Run a web server in a pod."""
    script = f"mkdir /www; hostname > /www/name; exec httpd -f -p '[::]:{port}' -h /www"
    server = pod.run("sh", "-c", script)
    server.sh(f"until nc -w 1 127.0.0.1 {port} </dev/null; do sleep 0.1; done")
    return server


def fetch(address: str, port: int = 80) -> str:
    """Ask a pod's web server from the host."""
    with socket.create_connection((address, port), timeout=20) as connection:
        connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
        with connection.makefile("rb") as answer:
            return answer.read().decode().splitlines()[-1]


def test_links_to_the_host_alone(node: Node, pods: list[Pod]) -> None:
    ports = [{"container_port": 80, "host_port": 18085}]
    pods.append(Pod(node, "ptp", port_mappings=ports))
    pods.append(Pod(node, "ptp"))
    server, client = serve(pods[0]), pods[1].run()
    names = [pod.config.hostname for pod in pods]
    assert fetch(pods[0].ip) == names[0]
    assert fetch("127.0.0.1", 18085) == names[0]
    # By the host, which routes between them: each has a route to it and none to the other.
    assert client.sh(f"wget -q -O - http://{pods[0].ip}/name") == names[0]
    assert "mtu 1400" in server.sh("ip link show eth0")
    gateway = PTP_NET.replace("0/24", "1")
    assert f"default via {gateway} dev eth0" in server.sh("ip route")
    with socket.create_server((gateway, 0)) as listener:
        listener.settimeout(20)
        sender = pods[1].run(
            "sh", "-c", f"echo hello | nc -w 5 {gateway} {listener.getsockname()[1]}"
        )
        with listener.accept()[0] as connection:
            assert connection.recv(100) == b"hello\n"
        sender.finish()


def test_two_interfaces_of_a_pod(node: Node, pods: list[Pod]) -> None:
    pods += [Pod(node, "two"), Pod(node, "two")]
    first, second = (pod.run() for pod in pods)
    serve(pods[1], 8080)
    for number, subnet in enumerate((FIRST_NET, SECOND_NET)):
        (address,) = find_addresses(second, f"eth{number}")
        assert address.rsplit(".", 1)[0] == subnet.rsplit(".", 1)[0]
        assert find_addresses(first, f"eth{number}") != [address]
        told = first.sh(f"wget -q -O - http://{address}:8080/name")
        assert told == pods[1].config.hostname
    (address,) = find_addresses(second, "eth1", 6)
    assert address.startswith(SECOND_NET6.removesuffix("/64"))
    told = first.sh(f"wget -q -O - http://[{address}]:8080/name")
    assert told == pods[1].config.hostname
    assert "10.81.0.0/16 via 10.80.0.1 dev eth1" in first.sh("ip route")


def find_addresses(container: Container, link: str, version: int = 4) -> list[str]:
    words = container.sh(f"ip -{version} -o addr show {link} scope global").split()
    return [
        words[index + 1].split("/")[0]
        for index, word in enumerate(words)
        if word.startswith("inet")
    ]


def test_the_model_macvtap(node: Node, pods: list[Pod]) -> None:
    pods.append(Pod(node, annotations={MODEL: "macvtap"}))
    server = serve(pods[0])
    assert fetch(pods[0].ip) == fetch(pods[0].ip6) == pods[0].config.hostname
    assert f"{pods[0].ip}/24" in server.sh("ip addr show eth0")


def test_the_model_none(node: Node, pods: list[Pod]) -> None:
    pods.append(Pod(node, annotations={MODEL: "none"}))
    container = pods[0].run()
    assert container.sh("ls /sys/class/net") == "lo"
    assert container.sh("ip route") == ""


def test_a_namespace_that_vanishes_under_a_running_pod(node: Node, pods: list[Pod]) -> None:
    # Without masquerading, whose rules the plug-in then leaves with every runtime.
    pods.append(Pod(node, "two"))
    server, address = serve(pods[0]), pods[0].ip
    run_ip(f"netns delete {Path(pods[0].namespace()).name}")
    # The machine holds it.
    assert fetch(address) == server.sh("hostname") == pods[0].config.hostname


def test_a_model_that_does_not_exist(node: Node) -> None:
    config = render_pod(node.folder / "logs", annotations={MODEL: "bridged"})
    with pytest.raises(CriError, match="internetworking_model"):
        node.cri.run_pod(config, "kata")
    assert node.cri.list_pods() == []
    assert node.network.list_reservations() == set()
    assert not [rule for rule in list_rules() if config.metadata.name in rule]
