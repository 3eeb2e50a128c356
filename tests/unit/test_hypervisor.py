"""QEMU's command line as a whole, and the choice of the accelerator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kata.base.errors import Code, KataError
from kata.host.hypervisor import accelerator
from kata.host.hypervisor.qemu.driver import ChannelFds, plan_options
from kata.host.hypervisor.qemu.options import render_argv
from kata.host.hypervisor.spec import SharedFolder, VmSpec

SPEC = VmSpec(
    name="s1",
    binary="/usr/bin/qemu-system-x86_64",
    machine_type="q35",
    accelerator="tcg",
    machine_options="",
    cpu_features="pmu=off",
    vcpus=2,
    memory_mib=512,
    memory_folder="/dev/shm",
    kernel="/k",
    initrd="/i",
    kernel_params=("console=ttyS0", "quiet"),
    seccomp="on,obsolete=deny",
    entropy_source="/dev/urandom",
    root_ports=1,
    share=SharedFolder("kataShared", 1024),
    vsock_cid=None,
)
FDS = ChannelFds(monitor=3, console=4, agent_log=5, agent=6, share=7, vsock=None)

GOLDEN = """\
-name sandbox-s1,debug-threads=on
-no-user-config
-nodefaults
-nographic
-no-reboot
-machine q35,memory-backend=ram,sata=off,smbus=off,usb=off,vmport=off,hpet=off,graphics=off
-accel tcg,tb-size=128
-cpu max
-smp 2
-m 512M
-object {"qom-type":"rng-random","id":"rng","filename":"/dev/urandom"}
-device {"driver":"virtio-rng-pci","id":"rng0","rng":"rng"}
-device {"driver":"virtio-balloon-pci","id":"balloon0","free-page-reporting":true}
-sandbox on,obsolete=deny
-object {"qom-type":"memory-backend-file","id":"ram","size":536870912,"mem-path":"/dev/shm","share":true}
-kernel /k
-initrd /i
-append console=ttyS0 quiet
-chardev socket,id=qmp,fd=3
-mon chardev=qmp,mode=control
-chardev socket,id=console,fd=4
-device {"driver":"isa-serial","id":"console0","chardev":"console"}
-device {"driver":"virtio-serial-pci","id":"serial0","max_ports":4}
-chardev socket,id=agent,fd=6
-device {"driver":"virtserialport","id":"port1","bus":"serial0.0","nr":1,"chardev":"agent","name":"agent.channel.0"}
-chardev socket,id=agentlog,fd=5
-device {"driver":"virtserialport","id":"port2","bus":"serial0.0","nr":2,"chardev":"agentlog","name":"agent.log.0"}
-chardev socket,id=share,fd=7
-device {"driver":"vhost-user-fs-pci","id":"fs0","chardev":"share","tag":"kataShared","queue-size":1024}
-device {"driver":"pcie-root-port","id":"rp0","bus":"pcie.0","chassis":1,"slot":1}
"""  # noqa: E501


def render(spec: VmSpec, fds: ChannelFds = FDS) -> list[str]:
    return [f"{option} {value}".rstrip() for option, value in plan_options(spec, fds)]


def test_whole_command_line() -> None:
    assert render(SPEC) == GOLDEN.splitlines()


def test_a_copy_gets_its_memory_and_waits_for_its_state() -> None:
    lines = [
        f"{option} {value}".rstrip()
        for option, value in plan_options(SPEC, replace(FDS, memory=9), restored=True)
    ]
    expected = [
        line.replace("/dev/shm", "/proc/self/fd/9")
        for line in GOLDEN.splitlines()
        if not line.startswith(("-kernel", "-initrd", "-append"))
    ]
    assert "-incoming defer" in lines
    assert [line for line in lines if line != "-incoming defer"] == expected


def test_a_root_in_an_image_is_memory_that_nobody_writes() -> None:
    spec = replace(SPEC, initrd="", image="/x.img")
    options = plan_options(spec, FDS, image_bytes=(18 << 20) + 1)
    lines = [f"{option} {value}".rstrip() for option, value in options]
    expected = GOLDEN.replace("-initrd /i\n", "").splitlines()
    assert [line for line in expected if line not in lines] == [
        next(line for line in expected if line.startswith("-machine")),
        "-m 512M",
    ]
    assert "-m 512M,slots=1,maxmem=531M" in lines
    assert next(line for line in lines if "-machine" in line).endswith(",nvdimm=on")
    backend = next(line for line in lines if "/x.img" in line)
    assert '"share":true,"readonly":true' in backend
    assert f'"size":{(18 << 20) + 1}' in backend
    assert '-device {"driver":"nvdimm","id":"nvdimm0","memdev":"image","unarmed":true}' in lines


def test_a_copy_has_the_image_of_the_original() -> None:
    spec = replace(SPEC, initrd="", image="/x.img")
    original, copy = (
        set(map(" ".join, plan_options(spec, FDS, restored=restored, image_bytes=9)))
        for restored in (False, True)
    )
    assert original - copy == {"-kernel /k", "-append console=ttyS0 quiet"}


def test_kvm_uses_the_hosts_processor() -> None:
    lines = render(replace(SPEC, accelerator="kvm"))
    assert "-accel kvm" in lines
    assert "-cpu host,pmu=off" in lines


def test_vsock_takes_the_place_of_the_agents_port() -> None:
    fds = ChannelFds(monitor=3, console=4, agent_log=5, agent=None, share=6, vsock=7)
    lines = render(replace(SPEC, vsock_cid=42), fds)
    vsock = next(line for line in lines if "vhost-vsock-pci" in line)
    assert json.loads(vsock.partition(" ")[2])["guest-cid"] == 42
    assert not any("agent.channel.0" in line for line in lines)
    assert any('"nr":1' in line and "agent.log.0" in line for line in lines)


def test_what_is_not_wanted_is_not_there() -> None:
    lines = render(replace(SPEC, share=None, seccomp="", root_ports=0, reclaim=False))
    assert not any("balloon" in line for line in lines)
    assert not any("share" in line.replace('"share":true', "") for line in lines)
    assert not any(line.startswith("-sandbox") or "root-port" in line for line in lines)


def test_options_of_the_operator_come_last_in_machine() -> None:
    line = next(line for line in render(replace(SPEC, machine_options="a=b")) if "-machine" in line)
    assert line.endswith(",a=b")


def test_argv_leaves_out_empty_values() -> None:
    assert render_argv("q", [("-a", ""), ("-b", "c")]) == ["q", "-a", "-b", "c"]


class Probe:
    """Stands for the KVM probe: gives an answer and counts."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        return self.reason


def install(monkeypatch: pytest.MonkeyPatch, reason: str) -> Probe:
    probe = Probe(reason)
    monkeypatch.setattr(accelerator, "probe_kvm", probe)
    return probe


def choose(wanted: str, folder: Path) -> accelerator.Acceleration:
    return accelerator.choose_accelerator(wanted, str(folder))


def test_auto_takes_kvm_where_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "")
    assert choose("auto", tmp_path) == accelerator.Acceleration("kvm", "")


def test_auto_falls_back_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "it only emulates")
    assert choose("auto", tmp_path) == accelerator.Acceleration("tcg", "it only emulates")


def test_kvm_that_does_not_work_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "it only emulates")
    with pytest.raises(KataError, match="use KVM: it only emulates") as caught:
        choose("kvm", tmp_path)
    assert caught.value.code == Code.FAILED_PRECONDITION


def test_tcg_is_not_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = install(monkeypatch, "")
    assert choose("tcg", tmp_path).name == "tcg"
    assert probe.calls == 0


@pytest.mark.parametrize("reason", ["", "it only emulates"])
def test_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    probe = install(monkeypatch, reason)
    assert choose("auto", tmp_path) == choose("auto", tmp_path)
    assert probe.calls == 1
    assert [path.name for path in tmp_path.iterdir()] == ["kvm-probe"]


def test_answer_is_asked_for_again_after_a_reboot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = install(monkeypatch, "")
    (tmp_path / "kvm-probe").write_text("another-boot\nno\n")
    assert choose("auto", tmp_path).name == "kvm"
    assert probe.calls == 1


def test_damaged_answer_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = install(monkeypatch, "")
    (tmp_path / "kvm-probe").write_bytes(b"\xff\xfe")
    assert choose("auto", tmp_path).name == "kvm"
    assert probe.calls == 1
