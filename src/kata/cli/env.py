"""kata-runtime env: versions and the configuration that counts, each value with its origin."""

from __future__ import annotations

import json
import os

from kata.base.version import VERSION
from kata.cli import host
from kata.config.load import load_config
from kata.config.origins import list_values
from kata.oci.features import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb
    from kata.config.origins import Value
    from kata.config.records import Config


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print it as TOML, or JSON.  Raises KataError for a configuration that is wrong."""
    config = load_config(settings.config_path or None, os.environ)
    if options.has("json"):
        print(json.dumps(describe(config), indent=2))
    else:
        print(render_toml(_describe(config), list_values(config)), end="")
    return 0


def describe(config: Config) -> dict[str, dict[str, Any]]:
    """Return versions and host, and below ``configuration`` each value with its origin."""
    return {**_describe(config), "configuration": _group(list_values(config))}


def _describe(config: Config) -> dict[str, dict[str, Any]]:
    hypervisor = config.hypervisor
    return {
        "runtime": {"version": VERSION, "oci": SPEC_VERSION, "configuration": config.path},
        "versions": {
            "qemu": host.find_version([hypervisor.path, "--version"]),
            "virtiofsd": host.find_version([hypervisor.virtio_fs_daemon, "--version"]),
            "containerd": host.find_version(["containerd", "--version"]),
        },
        "guest": {
            "kernel": os.path.realpath(hypervisor.kernel),
            "initrd": os.path.realpath(hypervisor.initrd) if hypervisor.initrd else "",
            "image": os.path.realpath(hypervisor.image) if hypervisor.image else "",
        },
        "host": host.describe_host(),
    }


def render_toml(tables: dict[str, dict[str, Any]], values: list[Value]) -> str:
    """Return a TOML document; origins are comments."""
    lines: list[str] = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_render(value)}" for key, value in table.items()]
        lines.append("")
    section = ""
    for value in values:
        if value.section != section:
            lines += ["", f"[configuration.{value.section}]"][0 if section else 1 :]
            section = value.section
        lines.append(f"{value.key} = {_render(value.value)}  # {value.origin}")
    return "\n".join(lines) + "\n"


def _group(values: list[Value]) -> dict[str, dict[str, dict[str, object]]]:
    grouped: dict[str, dict[str, dict[str, object]]] = {}
    for value in values:
        entry = {"value": value.value, "origin": value.origin}
        grouped.setdefault(value.section, {})[value.key] = entry
    return grouped


def _render(value: object) -> str:
    # JSON's literals of booleans, numbers, texts and lists of texts are TOML's too.
    return json.dumps(value, ensure_ascii=False)
