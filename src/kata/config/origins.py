"""Where each value of the configuration comes from, for people who wonder."""

from __future__ import annotations

import dataclasses
import tomllib

from kata.config.load import find_drop_ins
from kata.config.parse import SECTIONS, settings_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from kata.config.records import Config

DEFAULT = "default"
# Of ``virtio_fs_daemon``, where the file leaves it empty.
FOUND = "found on this host"


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """An effective value and its origin: a file, ``DEFAULT`` or ``FOUND``."""

    section: str
    key: str
    value: object
    origin: str


def list_values(config: Config) -> list[Value]:
    """Return every setting in the table's order.  The files are those that were read before."""
    origins = _find_origins(config.path)
    records = dict(
        zip(
            SECTIONS, (config.hypervisor, config.agent, config.factory, config.runtime), strict=True
        )
    )
    values = []
    for section, record in records.items():
        for key, field in settings_of(section).items():
            value = getattr(record, field.name)
            origin = origins.get((section, key), DEFAULT)
            if key == "virtio_fs_daemon" and not _names_daemon(config.path):
                origin = FOUND
            values.append(Value(section, key, value, origin))
    return values


def _find_origins(path: str) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    for name in (path, *find_drop_ins(path)):
        for section in SECTIONS:
            found |= {(section, key): name for key in _section(_load(name), section)}
    return found


def _names_daemon(path: str) -> bool:
    sections = [_section(_load(name), "hypervisor.qemu") for name in (path, *find_drop_ins(path))]
    given = [section["virtio_fs_daemon"] for section in sections if "virtio_fs_daemon" in section]
    return bool(given and given[-1])


def _load(path: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        return tomllib.load(file)


def _section(document: dict[str, Any], section: str) -> dict[str, Any]:
    table: Any = document
    for part in section.split("."):
        table = table.get(part, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}
