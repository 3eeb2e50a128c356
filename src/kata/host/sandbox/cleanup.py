"""Give back what a sandbox holds after its shim is gone, from its record on disk.

The mounts were made in the shim's own mount namespace and ended with its processes; what is left
are folders that served as mount points, the state folder, and perhaps processes.
"""

from __future__ import annotations

import os

from kata.base import cgroups, directvolume
from kata.base.errors import KataError, describe_error
from kata.base.folders import remove_folder
from kata.base.processes import read_start_time
from kata.host.sandbox import record
from kata.host.share import layout


def clean_up(sandbox_id: str, owner: str = "") -> list[str]:
    """End a sandbox's processes and remove its folders; returns what did not work.

    With ``owner``, a sandbox of that id whose record names another owner is left alone.
    """
    failures: list[str] = []
    try:
        found = record.load_record(sandbox_id)
    except KataError as error:
        failures.append(describe_error(error))
        found = None
    if found is not None and owner and found.owner != owner:
        return []
    if found is not None:
        failures += record.end_recorded_processes(found)
        try:
            cgroups.remove_folders(found.cgroups)
        except KataError as error:
            failures.append(describe_error(error))
    directvolume.drop_all(sandbox_id)
    base = layout.shared_paths(sandbox_id).base
    try:
        layout.unmount_below(base)
        layout.remove_skeleton(base)
        if not failures:
            remove_folder(record.state_folder(sandbox_id))
            record.remove_drafts(sandbox_id)
    except (KataError, OSError) as error:
        failures.append(describe_error(error))
    return failures


def unmount_rootfs(bundle: str) -> None:
    """Unmount what an engine or a shim mounted as a bundle's root file system."""
    layout.unmount_below(os.path.join(bundle, "rootfs"))


def is_orphaned(sandbox_id: str) -> bool:
    """Return whether a sandbox left a state folder and its shim is dead."""
    found = record.load_record(sandbox_id)
    if found is None:
        return os.path.exists(record.state_folder(sandbox_id))
    shims = [entry for entry in found.processes if entry.role == "shim"]
    return all(read_start_time(entry.pid) != entry.start_time for entry in shims)
