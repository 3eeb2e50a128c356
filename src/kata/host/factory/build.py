"""Make a template: boot a machine without a pod, get its guest ready, save it."""

from __future__ import annotations

import os
import time
from dataclasses import replace

from kata.base.log import Logger
from kata.base.processes import Spawner, read_start_time
from kata.config.records import Config
from kata.host.hypervisor.spec import VmSpec
from kata.host.sandbox.cleanup import clean_up, is_orphaned
from kata.host.sandbox.machine import Machine, MachineContext
from kata.host.sandbox.plan import describe_machine
from kata.host.sandbox.record import ProcessEntry, RecordFile
from kata.host.template.address import ORIGINAL
from kata.host.template.key import template_key
from kata.host.template.memory import make_memory
from kata.host.template.store import Store

# The guest hands free memory back about 2 s after it became free, in several rounds.
_SETTLE_S = 3.0
_SETTLE_LIMIT_S = 20.0
_PREPARE_TIMEOUT_S = 60.0


def build_template(spec: VmSpec, config: Config, log: Logger, spawner: Spawner) -> str:
    """Boot ``spec`` and keep it as a template; returns its key.  Raises KataError or OSError."""
    started = time.monotonic()
    store = Store(config.factory.template_path)
    store.sweep()
    key = template_key(*describe_machine(spec))
    if store.has(key):
        return key
    # Its own, so that a sweep of what a killed builder left never meets the next one's.
    own_id = f"{ORIGINAL}{key[:12]}-{os.getpid()}"
    if is_orphaned(own_id):
        clean_up(own_id)
    record = RecordFile(own_id)
    record.create("factory", ProcessEntry("shim", os.getpid(), read_start_time(os.getpid()) or 0))
    memory_fd = make_memory(spec.memory_mib << 20)
    machine = Machine(MachineContext(config, log, spawner, record))
    try:
        spec = replace(spec, name=own_id)
        machine.boot_original(spec, memory_fd)
        machine.wait_agent(spec)
        machine.agent.prepare_template(_PREPARE_TIMEOUT_S)
        _wait_settled(memory_fd)
        store.save(key, memory_fd, machine.hypervisor.save())
    finally:
        machine.close()
        os.close(memory_fd)
        record.remove()
    log.info("template made", key=key, ms=int((time.monotonic() - started) * 1000))
    return key


def _wait_settled(memory_fd: int) -> None:
    """Return when the guest's memory has not shrunk for a while."""
    deadline = time.monotonic() + _SETTLE_LIMIT_S
    least, since = os.fstat(memory_fd).st_blocks, time.monotonic()
    while (now := time.monotonic()) < min(since + _SETTLE_S, deadline):
        time.sleep(0.1)
        if (blocks := os.fstat(memory_fd).st_blocks) < least:
            least, since = blocks, now
