"""How long a copy of a template takes to its agent's answer: through the shim, and QEMU alone.

Alone means: what the hypervisor's driver does with the same template, without shim and virtiofsd,
and the memory copied before the clock starts.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from bench.boot import start_shim
from bench.samples import Figure, time_call
from kata.base.processes import Spawner
from kata.base.statefolder import ROOT
from kata.config.load import load_config
from kata.config.records import Config
from kata.host.hypervisor.accelerator import choose_accelerator
from kata.host.hypervisor.qemu.driver import Qemu
from kata.host.hypervisor.spec import LentFds, VmSpec
from kata.host.resource.sizing import Limits, plan_size
from kata.host.sandbox.agent import Agent
from kata.host.sandbox.machine import find_free_mib
from kata.host.sandbox.plan import describe_machine, find_memory_folder, plan_vm
from kata.host.template.key import template_key
from kata.host.template.memory import copy_data, make_memory
from kata.host.template.store import Store, Template
from kata.rpc.client import Client
from kata.rpc.frame import Channel
from tests.support.factory import end_factory, wait_for_spares

_TIMEOUT_S = 60.0
_SEED_BYTES = 64
_LIMIT = 1.8
# Sandboxes of the one must not be offered the machines that wait for the other.
_COPIES = "bench-copy"
_WARM = "bench-warm"


def measure_restore(rounds: int, copies: str, warm: str) -> list[Figure]:
    """Start in turn as a copy, with a machine that waits, and bare.

    ``copies`` and ``warm`` are configurations without and with one machine that waits.  There has
    to be a template for them.
    """
    end_factory()
    start_shim(warm, _WARM)  # the factory learns what to keep ready
    spawner = Spawner()
    times = [_start_each(copies, warm, spawner) for _ in range(rounds + 1)][1:]
    by_copy, by_warm, bare = zip(*times, strict=True)
    return [
        Figure("shim's exec to agent's answer, copy", "ms", by_copy),
        Figure("shim's exec to agent's answer, warm machine", "ms", by_warm),
        Figure("bare QEMU's exec to agent's answer, memory copied before", "ms", bare),
        Figure("ratio of copy to bare restore", "", _ratios(by_copy, bare), _LIMIT),
        Figure("ratio of warm machine to bare restore", "", _ratios(by_warm, bare), _LIMIT),
    ]


def _start_each(copies: str, warm: str, spawner: Spawner) -> tuple[float, float, float]:
    """Return the milliseconds of each kind; nothing is being made ready meanwhile."""
    wait_for_spares(1)
    copy = start_shim(copies, _COPIES)
    bare_s = restore_bare(load_config(copies, {}), spawner)
    wait_for_spares(1)
    ready = start_shim(warm, _WARM)
    if not copy.is_copy or copy.is_warm or not ready.is_warm:
        raise RuntimeError(
            f"another factory than ours runs, or there is no template: {copy, ready}"
        )
    return copy.took_s * 1000, ready.took_s * 1000, bare_s * 1000


def restore_bare(config: Config, spawner: Spawner) -> float:
    """Let QEMU restore the template of a sandbox without limits; returns seconds."""
    free_mib = find_free_mib(find_memory_folder(config))
    size = plan_size(config.hypervisor, Limits(), free_mib)
    accelerator = choose_accelerator(config.hypervisor.accel, ROOT).name
    spec = plan_vm("bench", config, size, accelerator, None)
    template = Store(config.factory.template_path).open(template_key(*describe_machine(spec)))
    if template is None:
        raise RuntimeError("there is no template")
    with _copied(template) as memory_fd:
        machine = Qemu(spawner)
        try:
            return time_call(lambda: _restore(machine, spec, template.state, memory_fd))
        finally:
            machine.stop()


@contextmanager
def _copied(template: Template) -> Iterator[int]:
    memory_fd = make_memory(template.memory_bytes)
    try:
        copy_data(template.memory_fd, memory_fd)
        yield memory_fd
    finally:
        os.close(memory_fd)
        template.close()


def _restore(machine: Qemu, spec: VmSpec, state: bytes, memory_fd: int) -> None:
    alone = replace(spec, share=None)
    streams = machine.start(alone, LentFds(memory=memory_fd), restored=True)
    client = Client(Channel.from_socket(socket.socket(fileno=streams.agent_fd)))
    try:
        machine.restore(state)
        Agent(client, _TIMEOUT_S).resume(os.urandom(_SEED_BYTES), time.time_ns(), _TIMEOUT_S)
    finally:
        client.close()
        for fd in (streams.console_fd, streams.agent_log_fd, streams.stderr_fd):
            os.close(fd)


def _ratios(times: tuple[float, ...], others: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(times, others, strict=True))
