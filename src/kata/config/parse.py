"""Turn configuration files, already read, into one checked ``Config``.

Pure: no file is opened here.  All failures are KataError INVALID_ARGUMENT with file, line where it
can be found, key path, and the nearest known key.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from kata.base.errors import Code, KataError
from kata.config.inactive import INACTIVE
from kata.config.records import (
    AgentConfig,
    Config,
    FactoryConfig,
    HypervisorConfig,
    RuntimeConfig,
    Setting,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any, NoReturn, Protocol

    Record = type[HypervisorConfig | AgentConfig | FactoryConfig | RuntimeConfig]

    class Given(Protocol):
        """A value somebody wrote, wherever."""

        @property
        def section(self) -> str:
            """The section of the file."""

        @property
        def key(self) -> str:
            """The key in it."""

        @property
        def value(self) -> object:
            """The value, of a type that the file can have."""

        def refuse(self, reason: str, hint: str = "") -> NoReturn:
            """Raise INVALID_ARGUMENT that names the place."""


SECTIONS: dict[str, Record] = {
    "hypervisor.qemu": HypervisorConfig,
    "agent.kata": AgentConfig,
    "factory": FactoryConfig,
    "runtime": RuntimeConfig,
}
# Tables of these names hold one more level: which hypervisor, which agent.
NESTED = ("hypervisor", "agent", "proxy", "shim")
TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file's path and text; of several, the later ones win key by key."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class _Given:
    """A value somebody wrote, with the place where."""

    file: ConfigFile
    section: str
    key: str
    value: object

    @property
    def name(self) -> str:
        return f"{self.section}.{self.key}" if self.section else self.key

    def refuse(self, reason: str, hint: str = "") -> NoReturn:
        line = find_line(self.file.text, self.section, self.key)
        place = f"{self.file.path}:{line}" if line else self.file.path
        raise KataError(f"read {place}: {self.name}: {reason}", Code.INVALID_ARGUMENT, hint)


def parse_config(files: Sequence[ConfigFile]) -> Config:
    """Merge the files and check every key; the first file gives the record's path."""
    given: dict[tuple[str, str], _Given] = {}
    for file in files:
        for item in _flatten(file):
            given[item.section, item.key] = item
    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    warnings = []
    for (section, key), item in given.items():
        field = settings_of(section).get(key)
        if field:
            values[section][field.name] = convert_value(item, field)
        elif key in INACTIVE.get(section, {}):
            accept_inactive(item)
            warnings.append(f"{item.file.path}: {item.name} has no effect")
        else:
            item.refuse("unknown key", nearest(key, known_keys(section)))
    _choose_root(values["hypervisor.qemu"])
    config = Config(
        files[0].path,
        HypervisorConfig(**values["hypervisor.qemu"]),
        AgentConfig(**values["agent.kata"]),
        FactoryConfig(**values["factory"]),
        RuntimeConfig(**values["runtime"]),
        tuple(warnings),
    )
    conflict = find_conflict(config)
    if conflict is not None:
        section, key, reason = conflict
        given[section, key].refuse(reason)
    return config


def _choose_root(values: dict[str, Any]) -> None:
    """Let an image that somebody set take the place of the initrd that nobody did."""
    if values.get("image"):
        values.setdefault("initrd", "")


def settings_of(section: str) -> dict[str, dataclasses.Field[Any]]:
    """Return a section's fields by the keys that users write; empty for an unknown section."""
    record = SECTIONS.get(section)
    fields = dataclasses.fields(record) if record else ()
    return {facts_of(field).key or field.name: field for field in fields}


def facts_of(field: dataclasses.Field[Any]) -> Setting:
    """Return what the table says of a field."""
    facts: Setting = field.metadata["setting"]
    return facts


def find_line(text: str, section: str, key: str) -> int:
    """Return the number of the line that sets the key, counted from 1; 0 when it is not plain."""
    current = ""
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            current = stripped.strip("[]").partition("]")[0].replace(" ", "").replace('"', "")
            if current == (f"{section}.{key}" if section else key):
                return number
        elif current == section and stripped.partition("=")[0].strip().strip("\"'") == key:
            return number
    return 0


def _flatten(file: ConfigFile) -> Iterable[_Given]:
    """Yield the keys of one file with their sections."""
    for top, value in _parse_toml(file).items():
        whole = _Given(file, "", top, value)
        if not isinstance(value, dict):
            whole.refuse("key outside of a section")
        tables = {f"{top}.{name}": table for name, table in value.items()}
        for section, table in (tables if top in NESTED else {top: value}).items():
            if section not in INACTIVE:
                place = _Given(file, "", section, table)
                place.refuse("unknown section", nearest(section, INACTIVE))
            if not isinstance(table, dict):
                whole.refuse(f"{section} must be a section")
            for key, item in table.items():
                yield _Given(file, section, key, item)


def _parse_toml(file: ConfigFile) -> dict[str, Any]:
    import tomllib  # 6 ms that processes without a configuration need not pay

    try:
        return tomllib.loads(file.text)
    # ValueError: TOMLDecodeError, and numbers of more digits than int() takes.
    except (ValueError, RecursionError) as error:
        raise KataError(f"read {file.path}: {error}", Code.INVALID_ARGUMENT) from error


def convert_value(item: Given, field: dataclasses.Field[Any]) -> object:
    """Return the value for a field, of the field's type and checked."""
    value = _of_type(item, type(field.default), facts_of(field))
    reason = facts_of(field).check(value)
    if reason:
        item.refuse(f"{_short(item.value)} {reason}")
    return value


def _of_type(item: Given, kind: type, facts: Setting) -> bool | int | float | str | tuple[str, ...]:
    value = item.value
    if isinstance(value, bool) and value in dict(facts.aliases):
        return dict(facts.aliases)[value]
    if kind is tuple and isinstance(value, list):
        texts = tuple(text for text in value if isinstance(text, str))
        if len(texts) == len(value):
            return texts
    # A bool is an int to Python, but not to us.
    elif isinstance(value, bool | int | float | str):
        if type(value) is kind:
            return value
        if kind is float and type(value) is int and abs(value) <= 1 << 53:
            return float(value)
    return item.refuse(f"{_short(value)} is not {TYPE_NAMES[kind]}")


def accept_inactive(item: Given) -> None:
    """Refuse a key that we do not act on, unless its value asks for nothing."""
    accepted = INACTIVE[item.section][item.key]
    if accepted is not None and not any(
        type(item.value) is type(value) and item.value == value for value in accepted
    ):
        item.refuse(
            f"{_short(item.value)} is not supported",
            f"only {' or '.join(_short(value) for value in accepted)} is",
        )


def find_conflict(config: Config) -> tuple[str, str, str] | None:
    """Return section, key and reason of a setting that others contradict."""
    hypervisor, runtime = config.hypervisor, config.runtime
    if runtime.disable_new_netns and runtime.internetworking_model != "none":
        return "runtime", "disable_new_netns", 'needs internetworking_model = "none"'
    most = hypervisor.default_maxvcpus
    if most and hypervisor.default_vcpus > most:
        reason = f"{most} is less than default_vcpus ({hypervisor.default_vcpus:g})"
        return "hypervisor.qemu", "default_maxvcpus", reason
    most = hypervisor.default_maxmemory_mib
    if most and hypervisor.default_memory_mib > most:
        reason = f"{most} MiB is less than default_memory ({hypervisor.default_memory_mib})"
        return "hypervisor.qemu", "default_maxmemory", reason
    if hypervisor.image and hypervisor.initrd:
        return "hypervisor.qemu", "image", 'excludes initrd; set initrd = ""'
    if not hypervisor.image and not hypervisor.initrd:
        return "hypervisor.qemu", "initrd", "initrd or image must be set"
    if hypervisor.shared_fs == "virtio-fs" and not hypervisor.file_mem_backend:
        return "hypervisor.qemu", "file_mem_backend", "virtio-fs needs it"
    return None


def known_keys(section: str) -> list[str]:
    """Return every key of a section that upstream or we know."""
    return [*settings_of(section), *INACTIVE.get(section, {})]


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint at what was meant, if something is alike."""
    import difflib  # only a mistake pays for it

    found = difflib.get_close_matches(word, list(known), 1)
    return f"did you mean {found[0]}?" if found else ""


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
