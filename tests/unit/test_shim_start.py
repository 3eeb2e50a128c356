"""The shim's command line, and where it listens."""

from __future__ import annotations

import json
import os
import socket
from hashlib import sha256
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.shim import address
from kata.host.shim.arguments import parse_arguments
from kata.host.shim.handover import make_pair


def test_arguments_of_containerd() -> None:
    found = parse_arguments(
        ["-namespace", "k8s.io", "-address", "/c.sock", "-publish-binary", "/usr/bin/containerd",
         "-id", "c1", "-bundle", "/b", "-debug", "delete"]
    )  # fmt: skip
    assert (found.namespace, found.address, found.id) == ("k8s.io", "/c.sock", "c1")
    assert (found.bundle, found.action, found.switches) == ("/b", "delete", frozenset({"debug"}))


@pytest.mark.parametrize(
    "argv", [["-id=c1", "start"], ["--id", "c1", "start"], ["--id=c1", "start"]]
)
def test_forms_of_go_flags(argv: list[str]) -> None:
    found = parse_arguments(argv)
    assert (found.id, found.action, found.bundle) == ("c1", "start", os.getcwd())


@pytest.mark.parametrize("argv", [["-nonsense"], ["-id"], ["-id", "c1", "--what=1"]])
def test_unknown_flags(argv: list[str]) -> None:
    with pytest.raises(KataError, match="unknown flag") as caught:
        parse_arguments(argv)
    assert caught.value.code == Code.INVALID_ARGUMENT


def test_no_arguments() -> None:
    assert parse_arguments([]).action == ""


def test_socket_path_is_containerds_scheme() -> None:
    wanted = sha256(b"/run/containerd/containerd.sock/k8s.io/c1").hexdigest()
    found = address.socket_path("/run/containerd/containerd.sock", "k8s.io", "c1")
    assert found == f"/run/containerd/s/{wanted}"


@pytest.mark.parametrize("known", [0, 2])
def test_bootstrap_for_containerd_1_and_cri_o_is_the_address(known: int) -> None:
    assert address.render_bootstrap("/s/x", known) == "unix:///s/x"


@pytest.mark.parametrize("known", [3, 4])
def test_bootstrap_for_later_ones_is_json(known: int) -> None:
    assert json.loads(address.render_bootstrap("/s/x", known)) == {
        "version": 3,
        "address": "unix:///s/x",
        "protocol": "ttrpc",
    }


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = f"{tmp_path}/s/socket"
    address.listen(path).close()  # what a killed shim leaves
    assert os.path.exists(path)
    assert not address.is_answering(path)
    with address.listen(path):
        assert address.is_answering(path)
        assert os.stat(path).st_mode & 0o777 == 0o700


def test_live_socket_is_not_replaced(tmp_path: Path) -> None:
    path = f"{tmp_path}/socket"
    with address.listen(path) as listener:
        with pytest.raises(KataError, match="a shim of that id is running") as caught:
            address.listen(path)
        assert caught.value.code == Code.ALREADY_EXISTS
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            listener.accept()[0].close()


def test_remove_twice(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    path.touch()
    address.remove(str(path))
    address.remove(str(path))
    assert not path.exists()


def test_daemon_that_serves_is_told_that_it_is_known() -> None:
    daemon, starter = make_pair()
    starter.tell_ready()
    daemon.wait_ready()
    daemon.tell_known()
    assert starter.wait_known()


def test_daemon_whose_start_was_killed_is_not_known() -> None:
    daemon, starter = make_pair()
    starter.tell_ready()
    daemon.wait_ready()
    daemon.close()
    assert not starter.wait_known()
    starter.close()


@pytest.mark.parametrize("reason", ["no memory", "r" * 10_000])
def test_reason_of_a_daemon_that_failed(reason: str) -> None:
    daemon, starter = make_pair()
    starter.tell_failure(reason)
    with pytest.raises(KataError, match=f"start shim: {reason[:9]}"):
        daemon.wait_ready()
    starter.close()


def test_daemon_that_was_killed() -> None:
    daemon, starter = make_pair()
    starter.close()
    with pytest.raises(KataError, match="the daemon was killed"):
        daemon.wait_ready()
    daemon.tell_known()  # which nobody hears
