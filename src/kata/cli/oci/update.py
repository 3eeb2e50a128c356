"""kata-runtime update: change a container's limits."""

from __future__ import annotations

import json
import sys

from kata.base.errors import Code, KataError
from kata.cli.oci.record import load_record
from kata.cli.oci.task import Task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb

# Flag: the object of the specification's resources, and its member.
_NUMBERS = {
    "blkio-weight": ("blockIO", "weight"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "pids-limit": ("pids", "limit"),
}
_TEXTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Change the limits."""
    record = load_record(settings.root, options.words[0])
    path = options.text("resources")
    resources = _load(path) if path else plan_resources(options)
    if record.status in ("stopped", "creating"):
        raise KataError("container not running", Code.FAILED_PRECONDITION)
    with Task(settings.root, record.sandbox, record.id) as task:
        task.update(json.dumps(resources).encode())
    return 0


def plan_resources(options: Options) -> dict[str, Any]:
    """Return the specification's object; what no flag names stays as it is."""
    resources: dict[str, dict[str, Any]] = {}
    for name, (group, member) in _NUMBERS.items():
        number = options.number(name)
        if number is not None:
            resources.setdefault(group, {})[member] = number
    for name, (group, member) in _TEXTS.items():
        if options.text(name):
            resources.setdefault(group, {})[member] = options.text(name)
    return resources


def _load(path: str) -> dict[str, Any]:
    try:
        if path == "-":
            text = sys.stdin.read()
        else:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        resources = json.loads(text)
    except OSError as error:
        raise KataError(f"open {path}: {error.strerror}", Code.NOT_FOUND) from error
    except ValueError as error:
        raise KataError(f"read {path}: invalid JSON: {error}", Code.INVALID_ARGUMENT) from error
    if not isinstance(resources, dict):
        raise KataError(f"read {path}: no JSON object", Code.INVALID_ARGUMENT)
    return resources
