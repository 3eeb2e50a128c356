"""The network of pods: addresses, routes, names, ports; peers are pods and namespaces."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.pods.conftest import PodMaker, remove_all
from tests.support.cri.bed import Node
from tests.support.cri.client import Cri
from tests.support.cri.pods import Container, Pod

pytestmark = pytest.mark.e2e

PAGE = "hello from a pod\n"
BIG = 4 << 20


@pytest.fixture(scope="module")
def server_pod(node: Node) -> Iterator[Pod]:
    """A pod with host ports and a web server."""
    ports = [
        {"container_port": 8080, "host_port": 18080},
    ]
    dns = {"servers": ["10.9.8.7"], "searches": ["one.test", "two.test"], "options": ["ndots:3"]}
    pod = Pod(node, port_mappings=ports, dns_config=dns)
    script = (
        f"mkdir /www; echo '{PAGE.strip()}' > /www/page; head -c {BIG} /dev/zero > /www/big;"
        "httpd -f -p '[::]:8080' -h /www & httpd -f -p 127.0.0.1:8081 -h /www"
    )
    server = pod.run("sh", "-c", script)
    for port in (8080, 8081):
        server.sh(f"until nc -w 1 127.0.0.1 {port} </dev/null; do sleep 0.1; done")
    yield pod
    remove_all([pod])


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=20) as answer:
        found: bytes = answer.read()
        return found


@pytest.fixture
def peer(node: Node) -> Iterator[list[str]]:
    """A network namespace on the pods' bridge with a web server; the words that enter it."""
    # Not one of ``ip netns``: that mounts /run/netns anew, over the pods' namespaces.
    server = subprocess.Popen(
        ["unshare", "-n", "busybox", "httpd", "-f", "-p", "8080", "-h", "/etc"]
    )
    place = f"/proc/{server.pid}/ns/net"
    while os.readlink(place) == os.readlink("/proc/self/ns/net"):
        time.sleep(0.01)
    enter = ["nsenter", f"--net={place}"]
    number = node.network.number
    outside = [
        f"ip link add kata-peer{number} type veth peer name eth0 netns {server.pid}",
        f"ip link set kata-peer{number} master {node.network.bridge} up",
    ]
    inside = [
        "ip link set lo up",
        "ip link set eth0 up",
        f"ip address add 10.77.{number}.250/24 dev eth0",
        f"ip address add fd77:{number}::250/64 dev eth0 nodad",
    ]
    for command in [
        *(line.split() for line in outside),
        *([*enter, *line.split()] for line in inside),
    ]:
        subprocess.run(command, check=True)
    yield enter
    server.kill()
    server.wait()


def guest_addresses(container: Container) -> set[str]:
    lines = container.sh("ip -o addr show dev eth0").splitlines()
    return {line.split()[3].split("/")[0] for line in lines}


def test_the_guest_has_the_pods_addresses(shared_pod: Pod, shared_container: Container) -> None:
    status = shared_pod.status().network
    told = {status.ip, *(entry.ip for entry in status.additional_ips)}
    assert len(told) == 2
    assert told <= guest_addresses(shared_container)


def test_links_are_those_of_the_pods_namespace(
    node: Node, shared_pod: Pod, shared_container: Container
) -> None:
    name = shared_pod.namespace().rpartition("/")[2]
    command = ["ip", "-n", name, "-j", "link", "show", "eth0"]
    (link,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    guest = shared_container.sh("cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu").split()
    assert guest == [link["address"], str(link["mtu"])]
    assert shared_container.sh("cat /sys/class/net/lo/operstate") in ("unknown", "up")


def test_routes_of_both_families(node: Node, shared_container: Container) -> None:
    assert f"default via {node.network.gateway} dev eth0" in shared_container.sh("ip route")
    assert f"default via {node.network.gateway6} dev eth0" in shared_container.sh("ip -6 route")


def test_host_to_pod(server_pod: Pod) -> None:
    assert fetch(f"http://{server_pod.ip}:8080/page") == PAGE.encode()
    assert len(fetch(f"http://{server_pod.ip}:8080/big")) == BIG


def test_host_to_pod_by_ipv6(server_pod: Pod) -> None:
    assert fetch(f"http://[{server_pod.ip6}]:8080/page") == PAGE.encode()


def test_pod_to_host(node: Node, pod: Pod) -> None:
    for address, family in (
        (node.network.gateway, socket.AF_INET),
        (node.network.gateway6, socket.AF_INET6),
    ):
        with socket.create_server((address, 0), family=family) as server:
            server.settimeout(20)
            command = f"echo from the pod | nc -w 5 {address} {server.getsockname()[1]}"
            client = pod.run("sh", "-c", command)
            with server.accept()[0] as connection:
                assert connection.recv(100) == b"from the pod\n"
        client.finish()


def test_pod_to_pod(server_pod: Pod, shared_container: Container) -> None:
    for address in (server_pod.ip, f"[{server_pod.ip6}]"):
        assert shared_container.sh(f"wget -q -O - http://{address}:8080/page") == PAGE.strip()
    size = shared_container.sh(f"wget -q -O - http://{server_pod.ip}:8080/big | wc -c")
    assert int(size) == BIG


def test_nginx_serves_many_requests(pod: Pod, servers: str) -> None:
    server = pod.run("nginx", "-g", "daemon off;", image=servers)
    server.sh("until [ -s /run/nginx.pid ]; do sleep 0.1; done")
    for _ in range(20):
        assert b"Welcome to nginx" in fetch(f"http://{pod.ip}/")


def test_peers_in_a_namespace(peer: list[str], server_pod: Pod, node: Node) -> None:
    command = [*peer, "busybox", "wget", "-q", "-O", "-"]
    for address in (server_pod.ip, f"[{server_pod.ip6}]"):
        url = f"http://{address}:8080/page"
        done = subprocess.run([*command, url], capture_output=True, timeout=20, check=True)
        assert done.stdout == PAGE.encode()
    network = node.network
    for address in (f"10.77.{network.number}.250", f"[fd77:{network.number}::250]"):
        told = server_pod.output("wget", "-q", "-O", "-", f"http://{address}:8080/hostname")
        assert told.strip() == socket.gethostname()


def test_containers_of_a_pod_share_its_loopback(server_pod: Pod) -> None:
    assert server_pod.output("wget", "-q", "-O", "-", "http://127.0.0.1:8081/page") == PAGE


def test_a_host_port(server_pod: Pod, node: Node) -> None:
    assert fetch("http://127.0.0.1:18080/page") == PAGE.encode()
    assert fetch(f"http://{node.network.gateway}:18080/page") == PAGE.encode()


def test_a_name_server_in_a_pod(make_pod: PodMaker, servers: str, node: Node) -> None:
    names = make_pod(port_mappings=[{"container_port": 53, "host_port": 15353, "protocol": "UDP"}])
    flags = ["--keep-in-foreground", "--user=root", "--no-resolv", "--no-hosts"]
    server = names.run(
        "dnsmasq", *flags, "--address=/web.one.test/10.1.2.3", "--host-record=v6.one.test,fd00::9",
        image=servers,
    )  # fmt: skip
    server.sh("until [ -s /run/dnsmasq.pid ] || pidof dnsmasq; do sleep 0.1; done")
    # Pod to pod, by the pod's settings.
    client = make_pod(dns_config={"servers": [names.ip], "searches": ["one.test"]})
    container = client.run(image=servers)
    assert container.sh("getent ahostsv4 web | head -n 1").split()[0] == "10.1.2.3"
    assert container.sh("getent ahostsv6 v6 | head -n 1").split()[0] == "fd00::9"
    assert container.sh("getent hosts nobody.one.test || echo unknown") == "unknown"
    # Host to pod, by a host port of UDP.
    question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03web\x03one\x04test\0\0\x01\0\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(20)
        asker.sendto(question, (node.network.gateway, 15353))
        answer = asker.recv(512)
    assert answer.startswith(b"\x12\x34")
    assert answer.endswith(bytes([10, 1, 2, 3]))


@pytest.mark.parametrize("port", [8080, 8081])
def test_port_forward(server_pod: Pod, cri: Cri, port: int) -> None:
    with cri.port_forward(server_pod.id, port) as connection:
        connection.send(b"GET /page HTTP/1.0\r\n\r\n")
        assert connection.read_all().endswith(PAGE.encode())


def test_port_forward_of_many_bytes(server_pod: Pod, cri: Cri) -> None:
    with cri.port_forward(server_pod.id, 8081) as connection:
        connection.send(b"GET /big HTTP/1.0\r\n\r\n")
        assert connection.read_all().count(b"\0") >= BIG


def test_port_forward_to_a_port_where_nobody_listens(server_pod: Pod, cri: Cri) -> None:
    with cri.port_forward(server_pod.id, 4) as connection:
        assert connection.read_all() == b""
        # The runtime is told only after it has connected to the host's end.
        assert re.search("refused|reset", connection.error)


def test_names_are_resolved_as_the_pod_says(server_pod: Pod) -> None:
    told = server_pod.output("cat", "/etc/resolv.conf").splitlines()
    assert told == ["search one.test two.test", "nameserver 10.9.8.7", "options ndots:3"]


def test_the_pods_own_name(pod: Pod) -> None:
    container = pod.run()
    name = pod.config.hostname
    assert container.sh("hostname; cat /etc/hostname").split() == [name, name]


def test_ping(shared_container: Container, server_pod: Pod) -> None:
    assert "1 packets received" in shared_container.exec("ping", "-c", "1", server_pod.ip)


def test_a_pod_that_is_gone_leaves_its_addresses(make_pod: PodMaker, node: Node) -> None:
    fields: dict[str, Any] = {"port_mappings": [{"container_port": 80, "host_port": 18081}]}
    pod = make_pod(**fields)
    address = pod.ip
    assert address in node.network.list_reservations()
    pod.remove()
    assert address not in node.network.list_reservations()
    again = make_pod(**fields)
    assert again.output("echo", "up") == "up\n"


def test_what_is_added_later_arrives_in_a_running_machine(make_pod: PodMaker) -> None:
    pod = make_pod()
    container = pod.run()
    inside = ["nsenter", f"--net={pod.namespace()}", "ip"]
    for command in (
        "link add late type veth peer name other",
        "link set late up",
        "link set other up",
        "address add 10.99.0.2/24 dev late",
        "route add 10.98.0.0/16 via 10.99.0.1",
    ):
        subprocess.run([*inside, *command.split()], check=True)
    container.sh("until ip route | grep -q 10.98.0.0/16; do sleep 0.1; done")
    assert "10.99.0.2/24" in container.sh("ip addr show late")
    subprocess.run([*inside, "address", "add", "10.99.0.3/24", "dev", "late"], check=True)
    container.sh("until ip addr show late | grep -q 10.99.0.3; do sleep 0.1; done")
    assert fetch_from_host(pod, container) == PAGE.encode()


def fetch_from_host(pod: Pod, container: Container) -> bytes:
    """Return a page that a container serves on the address that it had from the beginning."""
    container.sh(f"mkdir -p /www; echo '{PAGE.strip()}' > /www/page; httpd -p 8088 -h /www")
    return fetch(f"http://{pod.ip}:8088/page")
