"""What can be known of a sandbox before it is created: enough to guess its machine.

When an engine starts a shim there is a bundle, but no configuration yet, which comes with the
create request.  Sandboxes with the same hint mostly are of one kind.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from kata.host.resource.sizing import read_limits
from kata.oci.annotations import ContainerKind, find_placement
from kata.oci.bundle import annotations_of

_OURS = "io.katacontainers."
# The handler's name, in containerd 1.7 and later.
_HANDLER = "io.containerd.cri.runtime-handler"
_FILE = "KATA_CONF_FILE"


def find_hint(
    container_id: str, namespace: str, environ: Mapping[str, str], spec: dict[str, Any]
) -> str:
    """Return a text to compare; empty for a container that gets no machine of its own.

    Raises KataError for a spec that no sandbox can be made of.
    """
    annotations = annotations_of(spec)
    placement = find_placement(container_id, annotations)
    if placement.kind is ContainerKind.CONTAINER:
        return ""
    told = {
        key: text for key, text in annotations.items() if key.startswith(_OURS) or key == _HANDLER
    }
    parts = [
        namespace,
        placement.kind.value,
        environ.get(_FILE, ""),
        sorted(told.items()),
        asdict(read_limits(spec, annotations)),
    ]
    return json.dumps(parts)
