"""What engines have beside each container (conmon, a shim): the parent of the runtime's orphans.

``python supervisor.py PID-FILE COMMAND...`` runs the command, then waits for the process whose pid
the command has written, and prints how that ended: its exit status, negative for a signal.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36


def main(pid_file: str, command: list[str]) -> int:
    """Run, wait, tell."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    done = subprocess.run(command, check=False)
    if done.returncode:
        return done.returncode
    print("created", flush=True)
    _, status = os.waitpid(int(Path(pid_file).read_text()), 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
