"""Kernel settings by name."""

from __future__ import annotations

import pytest

from kata.base import sysctls
from kata.base.errors import Code, KataError


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.core.somaxconn", "/proc/sys/net/core/somaxconn"),
        ("net/ipv4/conf/eth0.5/forwarding", "/proc/sys/net/ipv4/conf/eth0.5/forwarding"),
    ],
)
def test_where_a_setting_is(name: str, path: str) -> None:
    assert sysctls.find_path(name) == path


@pytest.mark.parametrize(
    "name", ["net/../kernel/hostname", "net..core", "net/./core", ".net", "net.", "/net/core", ""]
)
def test_no_name_leads_elsewhere(name: str) -> None:
    with pytest.raises(KataError, match="no such setting") as caught:
        sysctls.find_path(name)
    assert caught.value.code == Code.INVALID_ARGUMENT
    assert repr(name) in caught.value.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kernel.shmmax", "ipc"),
        ("kernel/sem", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("net.ipv4.ip_forward", "network"),
        ("kernel.pid_max", ""),
        ("vm.swappiness", ""),
    ],
)
def test_namespace_of_a_setting(name: str, kind: str) -> None:
    assert sysctls.find_namespace(name) == kind


@pytest.mark.parametrize(
    ("line", "setting"),
    [
        ("vm.max_map_count=1", ("vm.max_map_count", "1")),
        (" kernel.printk = 4 4 1 7 ", ("kernel.printk", "4 4 1 7")),
        ("kernel.core_pattern=core=%p", ("kernel.core_pattern", "core=%p")),
        ("net/ipv4/conf/eth0.5/forwarding=1", ("net/ipv4/conf/eth0.5/forwarding", "1")),
    ],
)
def test_a_line_is_a_setting(line: str, setting: tuple[str, str]) -> None:
    assert sysctls.parse_setting(line) == setting


@pytest.mark.parametrize("line", ["", "vm.swappiness", "vm.swappiness=", "=1", "vm.=1", "../x=1"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(KataError) as caught:
        sysctls.parse_setting(line)
    assert caught.value.code == Code.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("vm.nr_hugepages", "64", ""),
        ("fs.aio-max-nr", "1048576", ""),
        ("net.core.rmem_max", "8388608", ""),
        ("kernel.core_pattern", "/tmp/core.%p", ""),
        ("kernel.core_pattern", "|/usr/bin/busybox sh", "program"),
        ("kernel/core_pattern", "|/usr/bin/busybox sh", "program"),
        ("kernel.modprobe", "/tmp/mine", "program"),
        ("kernel.usermodehelper.bset", "1 1", "program"),
        ("kernel.shmmax", "1", "ipc"),
        ("fs.mqueue.msg_max", "1", "ipc"),
        ("kernel.hostname", "x", "uts"),
    ],
)
def test_what_a_machine_cannot_be_given(name: str, value: str, word: str) -> None:
    reason = sysctls.explain_refusal(name, value)
    assert word in reason
    assert bool(reason) == bool(word)


ALL = ("network", "ipc", "uts", "pid", "mount")
HOSTNAME = 'is not allowed as it conflicts with the OCI "hostname" field'
SHARED = "is not in a separate kernel namespace"


@pytest.mark.parametrize(
    ("name", "kinds", "text"),
    [
        ("net.core.somaxconn", ALL, ""),
        ("net/ipv4/conf/eth0.5/forwarding", ALL, ""),
        ("kernel.shmmax", ALL, ""),
        ("fs.mqueue.msg_max", ALL, ""),
        ("kernel.domainname", ALL, ""),
        ("kernel.hostname", ALL, f'sysctl "kernel.hostname" {HOSTNAME}'),
        ("kernel/hostname", ALL, f'sysctl "kernel.hostname" {HOSTNAME}'),
        ("kernel.hostname", (), f'sysctl "kernel.hostname" {SHARED}'),
        ("kernel.domainname", (), f'sysctl "kernel.domainname" {SHARED}'),
        ("vm/swappiness", ALL, f'sysctl "vm.swappiness" {SHARED}'),
        ("kernel.msgmax", (), 'sysctl "kernel.msgmax" is not allowed in the hosts ipc namespace'),
        ("net/core.5", (), 'sysctl "net.core/5" not allowed in host network namespace'),
    ],
)
def test_a_containers_own_settings(name: str, kinds: tuple[str, ...], text: str) -> None:
    if not text:
        sysctls.check_own([name], kinds)
        return
    with pytest.raises(KataError) as caught:
        sysctls.check_own([name], kinds)
    assert (str(caught.value), caught.value.code) == (text, Code.INVALID_ARGUMENT)
