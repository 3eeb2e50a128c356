"""What an operator asks of the factory: make a template now, say what there is, end all of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from kata.base import fdpass
from kata.base.errors import Code, KataError
from kata.base.log import Logger
from kata.base.processes import Spawner
from kata.base.statefolder import ROOT
from kata.config.load import load_config
from kata.config.records import Config
from kata.host.factory.build import build_template
from kata.host.hypervisor.accelerator import choose_accelerator
from kata.host.resource.sizing import Limits, plan_size
from kata.host.sandbox.launch import tell_factory
from kata.host.sandbox.machine import find_free_mib
from kata.host.sandbox.plan import find_memory_folder, plan_vm
from kata.host.template.address import END, SOCKET, STATUS
from kata.host.template.store import Kept, Store

_END_S = 10.0


@dataclass(frozen=True, slots=True)
class SpareStatus:
    """A machine that waits, or (not ``ready``) is on its way."""

    pid: int
    memory_mib: int
    vcpus: int
    ready: bool


@dataclass(frozen=True, slots=True)
class Status:
    """What there is; ``pid`` is 0 when no factory runs."""

    pid: int
    building: bool
    spares: tuple[SpareStatus, ...]
    templates: tuple[Kept, ...]

    def render(self) -> str:
        """Return lines for people."""
        runs = f"the factory runs (pid {self.pid})" if self.pid else "no factory runs"
        lines = [runs + (", and makes a template" if self.building else "")]
        lines += [
            f"machine of {spare.vcpus} vCPU and {spare.memory_mib} MiB"
            f" {'waits' if spare.ready else 'starts'} (pid {spare.pid})"
            for spare in self.spares
        ]
        now = time.time()
        lines += [
            f"template {kept.key}, {kept.held_bytes >> 20} MiB, used"
            f" {(now - kept.used_at) / 60:.0f} minutes ago"
            for kept in self.templates
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the same for programs."""
        return json.dumps(asdict(self), indent=2)


def init(config_path: str) -> str:
    """Make the template of a sandbox without limits and annotations; returns its key.

    Takes as long as a machine boots, and starts the factory.  Raises KataError.
    """
    config = _load(config_path)
    if not config.factory.enable_template or config.hypervisor.use_vsock == "true":
        reason = "use_vsock is true" if config.factory.enable_template else "enable_template is off"
        raise KataError(
            f"make template: {reason} in {config.path}, so machines boot", Code.FAILED_PRECONDITION
        )
    os.makedirs(ROOT, 0o700, exist_ok=True)
    accelerator = choose_accelerator(config.hypervisor.accel, ROOT)
    size = plan_size(config.hypervisor, Limits(), find_free_mib(find_memory_folder(config)))
    spec = plan_vm("template", config, size, accelerator.name, None)
    log = Logger(lambda line: os.write(2, line))
    key = build_template(spec, config, log, Spawner())
    tell_factory(config, spec, "", is_copy=True, missed=False)
    return key


def find_status(config_path: str) -> Status:
    """Return what there is.  Raises KataError."""
    config = _load(config_path)
    told = _ask([STATUS])
    answer: dict[str, Any] = {"pid": 0, "building": False, "spares": []}
    if told:
        answer = json.loads(told[0])
    return Status(
        answer["pid"],
        answer["building"],
        tuple(SpareStatus(**spare) for spare in answer["spares"]),
        tuple(Store(config.factory.template_path).list()),
    )


def end() -> None:
    """End the factory and the machines that wait; none is no error.  Sandboxes go on."""
    _ask([END])


def destroy(config_path: str) -> None:
    """End the factory and remove all templates.  Raises KataError."""
    config = _load(config_path)
    end()
    deadline = time.monotonic() + _END_S
    while os.path.exists(SOCKET) and time.monotonic() < deadline:
        time.sleep(0.02)
    Store(config.factory.template_path).clear()


def _load(path: str) -> Config:
    return load_config(path or None, os.environ)


def _ask(message: list[bytes]) -> list[bytes]:
    """Return the factory's answer; empty when none runs, or when it just hangs up."""
    try:
        sock = fdpass.connect(SOCKET)
    except OSError:
        return []
    try:
        fdpass.send(sock, message)
        return fdpass.receive(sock)[0]
    except OSError:
        return []  # it was ending by itself
    finally:
        sock.close()
