"""``-info``: tell containerd 2.0 and later what this runtime is."""

from __future__ import annotations

import json
import sys

from kata.base.version import VERSION
from kata.oci.features import TYPE_URL, describe_features
from kata.rpc.pb import any_pb2, containerd_types_pb2


def print_info() -> None:
    """Read the runtime's options from stdin, write a RuntimeInfo to stdout."""
    options = any_pb2.Any.FromString(sys.stdin.buffer.read())
    info = containerd_types_pb2.RuntimeInfo(name="io.containerd.kata.v2")
    info.version.version = VERSION
    info.features.type_url = TYPE_URL
    info.features.value = json.dumps(describe_features()).encode()
    if options.type_url:
        info.options.CopyFrom(options)
    sys.stdout.buffer.write(info.SerializeToString())
