"""kata-runtime state: a container's state as JSON."""

from __future__ import annotations

import json

from kata.cli.oci.record import load_record
from kata.oci.features import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.oci.record import Record
    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print the state."""
    record = load_record(settings.root, options.words[0])
    state = {**describe_state(record, record.status), **describe_more(record)}
    print(json.dumps(state, indent=2))
    return 0


def describe_state(record: Record, status: str) -> dict[str, Any]:
    """Return the specification's object (runtime.md, "State")."""
    return {
        "ociVersion": SPEC_VERSION,
        "id": record.id,
        "pid": 0 if status == "stopped" else record.pid,
        "status": status,
        "bundle": record.bundle,
        "annotations": record.annotations,
    }


def describe_more(record: Record) -> dict[str, Any]:
    """Return what runc tells besides."""
    return {"rootfs": record.rootfs, "created": record.created, "owner": record.owner}
