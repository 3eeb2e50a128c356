"""Where a running sandbox is found by those who did not start it: its state folder on the host."""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError

# One folder for each sandbox, named after it; what begins with a dot is being made.
ROOT = "/run/kata"
# In a folder: where its shim answers (kata.host.shim.management).
SOCKET = "shim-monitor.sock"


def find_sandbox_folder(sandbox_id: str, root: str = ROOT) -> str:
    """Return the state folder of a running sandbox.  The start of an id will do.

    Raises NOT_FOUND, or INVALID_ARGUMENT when several have it.
    """
    try:
        known = sorted(name for name in os.listdir(root) if os.path.isdir(f"{root}/{name}"))
    except FileNotFoundError:
        known = []
    chosen = [name for name in known if name == sandbox_id] or [
        name for name in known if sandbox_id and name.startswith(sandbox_id)
    ]
    if len(chosen) > 1:
        raise KataError(
            f"find sandbox {sandbox_id}: {', '.join(chosen)} begin with it", Code.INVALID_ARGUMENT
        )
    if not chosen:
        raise missing_sandbox(sandbox_id)
    return f"{root}/{chosen[0]}"


def missing_sandbox(sandbox_id: str) -> KataError:
    """Return the error for one that is not there."""
    return KataError(f"find sandbox {sandbox_id}: no such sandbox runs", Code.NOT_FOUND)
