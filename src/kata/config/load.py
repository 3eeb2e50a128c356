"""Find and read the configuration files of this machine.

Called once for each sandbox by the shim, and by the command line.
"""

from __future__ import annotations

import os
from dataclasses import replace

from kata.base.errors import Code, KataError
from kata.config.parse import ConfigFile, parse_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from kata.config.records import Config

ENVIRONMENT = "KATA_CONF_FILE"
CONFIG_PATHS = (
    "/etc/kata-containers/configuration.toml",
    "/usr/share/defaults/kata-containers/configuration.toml",
)
DROP_INS = "config.d"
# The Rust one of the system, the one that the installer brings where there is none, QEMU's C one.
VIRTIOFSD_PATHS = (
    "/usr/libexec/virtiofsd",
    "/opt/kata/virtiofsd/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
)
# What was read, with the stamps of the files: forks of a process need not read it again.
_known: dict[tuple[str, ...], tuple[list[object], Config]] = {}
# The shipped file has 10 kB; what is larger by far is not a configuration.
FILE_MAX_BYTES = 1 << 20


def load_config(explicit: str | None, environ: Mapping[str, str]) -> Config:
    """Read the configuration with its drop-ins.

    ``explicit`` is containerd's ConfigPath option.  Raises KataError: NOT_FOUND when there is no
    such file, INVALID_ARGUMENT for what is wrong in it.
    """
    path = find_config_path(explicit, environ)
    config = _read_known((path, *find_drop_ins(path)))
    if not config.hypervisor.virtio_fs_daemon:
        found = next((name for name in VIRTIOFSD_PATHS if os.path.exists(name)), VIRTIOFSD_PATHS[0])
        config = replace(config, hypervisor=replace(config.hypervisor, virtio_fs_daemon=found))
    return config


def _read_known(names: tuple[str, ...]) -> Config:
    stamps = [_stamp(name) for name in names]
    known = _known.get(names)
    if known is None or known[0] != stamps:
        known = _known[names] = (stamps, parse_config([_read(name) for name in names]))
    return known[1]


def find_config_path(explicit: str | None, environ: Mapping[str, str]) -> str:
    """Return the file to read; one that is named must exist, of the usual ones any may."""
    named = explicit or environ.get(ENVIRONMENT, "")
    if named:
        if not os.path.isfile(named):
            source = "ConfigPath" if explicit else ENVIRONMENT
            raise KataError(f"read configuration {named} ({source}): no such file", Code.NOT_FOUND)
        return named
    for path in CONFIG_PATHS:
        if os.path.isfile(path):
            return path
    raise KataError(
        f"read configuration: neither of {', '.join(CONFIG_PATHS)} exists", Code.NOT_FOUND
    )


def find_drop_ins(path: str) -> list[str]:
    """Return the files of config.d beside the configuration, in the order of their names."""
    folder = os.path.join(os.path.dirname(path), DROP_INS)
    if not os.path.isdir(folder):
        return []
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if _is_toml(name)]


def _stamp(path: str) -> object:
    """Return what changes with a file; for one that cannot be read, something of its own."""
    try:
        info = os.stat(path)
    except OSError:
        return object()
    return info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _is_toml(name: str) -> bool:
    return name.endswith(".toml") and not name.startswith(".")


def _read(path: str) -> ConfigFile:
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
        if len(data) > FILE_MAX_BYTES:
            raise KataError(f"read {path}: more than {FILE_MAX_BYTES} bytes", Code.INVALID_ARGUMENT)
        return ConfigFile(path, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise KataError(f"read {path}: {error}", Code.INVALID_ARGUMENT) from error
    except OSError as error:
        raise KataError(f"read {path}: {error.strerror}", Code.FAILED_PRECONDITION) from error
