"""What the agent reads: cgroup files, the kernel's counters, the module list, the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.base.exposition import GAUGE, one, render_family
from kata.base.procmetrics import parse_network
from kata.guest import metrics, oom, states, stats
from kata.guest.init import parse_options
from kata.guest.modules import Modules, parse_list
from kata.guest.reaper import exit_status
from kata.guest.states import StateMachine

CGROUP = {
    "cpu.stat": "usage_usec 3000\nuser_usec 1000\nsystem_usec 2000\n"
    "nr_periods 5\nnr_throttled 4\nthrottled_usec 7\n",
    "memory.stat": "anon 100\nfile 200\nkernel 30\ninactive_file 50\n",
    "memory.current": "4096\n",
    "memory.peak": "8192\n",
    "memory.max": "max\n",
    "memory.events": "low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\n",
    "memory.swap.current": "11\n",
    "memory.swap.max": "22\n",
    "pids.current": "3\n",
    "pids.max": "max\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n254:16 rbytes=9\n",
    "hugetlb.2MB.current": "2097152\n",
    "hugetlb.2MB.events": "max 3\n",
    "hugetlb.2MB.rsvd.current": "0\n",
}
NETWORK = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo
    lo:     100      2    0    0    0     0          0         0      100       2    0    0    0
  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16
"""


@pytest.fixture
def cgroup(tmp_path: Path) -> str:
    for name, text in CGROUP.items():
        (tmp_path / name).write_text(text)
    return str(tmp_path)


def test_processor_times_are_not_swapped(cgroup: str) -> None:
    cpu = stats.collect(cgroup).cgroup_stats.cpu_stats
    assert cpu.cpu_usage.total_usage == 3_000_000
    assert cpu.cpu_usage.usage_in_usermode == 1_000_000
    assert cpu.cpu_usage.usage_in_kernelmode == 2_000_000
    throttling = cpu.throttling_data
    assert (throttling.periods, throttling.throttled_periods) == (5, 4)
    assert throttling.throttled_time == 7000


def test_memory(cgroup: str) -> None:
    memory = stats.collect(cgroup).cgroup_stats.memory_stats
    assert memory.cache == 200
    assert (memory.usage.usage, memory.usage.max_usage, memory.usage.failcnt) == (4096, 8192, 9)
    assert memory.usage.limit == (1 << 64) - 1
    assert (memory.swap_usage.usage, memory.swap_usage.limit) == (11, 22)
    assert memory.kernel_usage.usage == 30
    assert memory.stats["inactive_file"] == 50


def test_pids_block_io_and_huge_pages(cgroup: str) -> None:
    answer = stats.collect(cgroup).cgroup_stats
    assert (answer.pids_stats.current, answer.pids_stats.limit) == (3, 0)
    moved = [
        (entry.major, entry.minor, entry.op, entry.value)
        for entry in answer.blkio_stats.io_service_bytes_recursive
    ]
    assert moved[:3] == [(8, 0, "Read", 1), (8, 0, "Write", 2), (8, 0, "Discard", 5)]
    assert moved[3] == (254, 16, "Read", 9)
    assert [entry.value for entry in answer.blkio_stats.io_serviced_recursive][:3] == [3, 4, 6]
    assert list(answer.hugetlb_stats) == ["2MB"]
    assert answer.hugetlb_stats["2MB"].usage == 2097152
    assert answer.hugetlb_stats["2MB"].failcnt == 3


def test_cgroup_that_is_gone(tmp_path: Path) -> None:
    answer = stats.collect(str(tmp_path / "gone"))
    assert answer.cgroup_stats.memory_stats.usage.usage == 0
    with pytest.raises(KataError) as caught:
        stats.collect("")
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_network() -> None:
    _, eth0 = stats.network(NETWORK)
    assert eth0.name == "eth0"
    assert (eth0.rx_bytes, eth0.rx_packets, eth0.rx_errors, eth0.rx_dropped) == (1, 2, 3, 4)
    assert (eth0.tx_bytes, eth0.tx_packets, eth0.tx_errors, eth0.tx_dropped) == (9, 10, 11, 12)


def test_out_of_memory_count() -> None:
    assert oom.count_kills(CGROUP["memory.events"].encode()) == 1
    assert oom.count_kills(b"") == 0


def test_metric_family() -> None:
    samples = list(parse_network(NETWORK))[:1]
    assert render_family(("kata_guest_netdev_stat", GAUGE, "text", samples)) == (
        "# HELP kata_guest_netdev_stat text\n# TYPE kata_guest_netdev_stat gauge\n"
        'kata_guest_netdev_stat{interface="lo",item="recv_bytes"} 100\n'
    )
    assert render_family(("x", GAUGE, "text", [])) == ""


def test_metric_numbers_keep_their_digits() -> None:
    text = render_family(("x", GAUGE, "text", one(float(12_345_678_901_234))))
    assert text.endswith("x 12345678901234\n")


def test_meminfo_names() -> None:
    parsed = metrics.parse_memory("MemTotal:  10 kB\nActive(anon): 1 kB\nHugePages_Total: 5\n")
    assert parsed == {"mem_total": 10240, "active_anon": 1024, "huge_pages_total": 5}


def test_module_list() -> None:
    entries = parse_list(
        "virtio /lib/modules/virtio.ko - boot -\n"
        "virtio-pci /lib/modules/virtio_pci.ko virtio,virtio-ring boot -\n"
    )
    assert list(entries) == ["virtio", "virtio_pci"]
    assert entries["virtio_pci"].dependencies == ["virtio", "virtio_ring"]
    assert entries["virtio"].stage == "boot"
    assert parse_list("") == {}


def test_module_list_of_the_image_builder() -> None:
    from kata.image.modules import Module, render_list

    modules = [Module("a", "boot", (), b""), Module("b", "demand", ("a",), b"")]
    entries = parse_list(render_list(modules))
    assert entries["b"].dependencies == ["a"]
    assert entries["b"].path.endswith("/b.ko")


def test_modules_are_found_by_what_the_kernel_calls_them(tmp_path: Path) -> None:
    file = tmp_path / "modules.list"
    file.write_text("veth /lib/modules/veth.ko - demand rtnl_link_veth,netdev-veth\n")
    modules = Modules(str(file), loaded_file=str(file))
    for name in ("veth", "rtnl-link-veth", "netdev_veth"):
        assert modules.resolve(name) == "veth"
    assert modules.resolve("net-pf-4") == "net_pf_4"


def test_a_kernel_without_modules_has_all_it_will_ever_have(tmp_path: Path) -> None:
    file = tmp_path / "modules.list"
    file.write_text("veth /no/such/file.ko - boot -\n")
    modules = Modules(str(file), loaded_file=str(tmp_path / "none"))
    modules.load_boot()
    modules.load("veth")
    modules.probe("veth", "")
    with pytest.raises(KataError, match="with 'a=1': the kernel has no modules") as caught:
        modules.probe("dummy", "a=1")
    assert "dummy.PARAMETER=VALUE to kernel_params" in caught.value.hint


def test_a_module_that_the_image_lacks(tmp_path: Path) -> None:
    file = tmp_path / "modules.list"
    file.write_text("veth /no/such/file.ko - boot -\n")
    modules = Modules(str(file), loaded_file=str(file))
    with pytest.raises(KataError, match="no-such-module: the guest image lacks it") as caught:
        modules.probe("no-such-module", "")
    assert caught.value.code == Code.NOT_FOUND


def test_command_line() -> None:
    line = "console=hvc0 agent.log=debug agent.server_addr=vsock://-1:1024 agent.devmode quiet\n"
    assert parse_options(line) == {
        "agent.log": "debug",
        "agent.server_addr": "vsock://-1:1024",
        "agent.devmode": "",
    }


@pytest.mark.parametrize("status", [0, 1, 255])
def test_exit_status(status: int) -> None:
    assert exit_status(status << 8) == status
    assert exit_status(9) == 137
    assert exit_status(11 | 0x80) == 139  # with a core dump


def test_states() -> None:
    machine = StateMachine("c1")
    with pytest.raises(KataError, match="cannot pause container c1 in state creating"):
        machine.move("pause", states.PAUSED)
    machine.advance(states.STOPPED)
    machine.advance(states.CREATED)
    assert machine.state == states.STOPPED
    assert set(states.TRANSITIONS) >= set().union(*states.TRANSITIONS.values())
