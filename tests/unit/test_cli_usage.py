"""What top makes of metrics."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kata.cli.usage import compare, read_look, render_bytes

TICKS = os.sysconf("SC_CLK_TCK")
TEXT = f"""\
# HELP kata_shim_proc_stat x
# TYPE kata_shim_proc_stat gauge
kata_shim_proc_stat{{item="utime"}} {TICKS}
kata_shim_proc_stat{{item="stime"}} {TICKS}
kata_shim_proc_stat{{item="cutime"}} 999999
kata_hypervisor_proc_stat{{item="utime"}} {3 * TICKS}
kata_virtiofsd_proc_stat{{item="stime"}} {TICKS}
kata_hypervisor_io_stat{{item="readbytes"}} 100
kata_virtiofsd_io_stat{{item="readbytes"}} 20
kata_virtiofsd_io_stat{{item="writebytes"}} 7
kata_shim_pod_overhead_memory_in_bytes 1.5e+08
kata_guest_meminfo{{item="mem_total"}} 1000
kata_guest_meminfo{{item="mem_available"}} 400
kata_guest_netdev_stat{{interface="lo",item="recv_bytes"}} 5000
kata_guest_netdev_stat{{interface="eth0",item="recv_bytes"}} 50
kata_guest_netdev_stat{{interface="eth1",item="recv_bytes"}} 5
kata_guest_netdev_stat{{interface="eth0",item="sent_bytes"}} 9
kata_guest_tasks{{item="max"}} 42
"""


def test_a_look() -> None:
    look = read_look(TEXT, 1.0)
    assert (look.cpu_s, look.overhead, look.tasks) == (6.0, 1.5e8, 42)
    assert (look.guest_used, look.guest_total) == (600, 1000)
    assert (look.received, look.sent, look.read, look.written) == (55, 9, 120, 7)


def test_two_looks() -> None:
    later = TEXT.replace(
        'interface="eth0",item="recv_bytes"} 50', 'interface="eth0",item="recv_bytes"} 150'
    )
    later = later.replace(
        f'kata_hypervisor_proc_stat{{item="utime"}} {3 * TICKS}',
        f'kata_hypervisor_proc_stat{{item="utime"}} {5 * TICKS}',
    )
    usage = compare(read_look(TEXT, 1.0), read_look(later, 5.0))
    assert (usage.cpu_percent, usage.received, usage.sent) == (50.0, 25.0, 0.0)
    # A counter that went back has begun anew.
    assert compare(read_look(later, 5.0), read_look(TEXT, 9.0)).received == 0.0


@given(st.text(alphabet='kata_guest{}="\n 01.e', max_size=300))
def test_a_guest_may_say_anything(text: str) -> None:
    look = read_look(TEXT + text, 1.0)
    assert look.cpu_s == 6.0


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0B"),
        (999, "999B"),
        (1000, "1.0K"),
        (10_240, "10K"),
        (1 << 20, "1.0M"),
        (500 << 20, "500M"),
        (3 << 30, "3.0G"),
        (2 << 40, "2.0T"),
    ],
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert render_bytes(count) == text
