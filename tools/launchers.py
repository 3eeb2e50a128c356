"""The programs' entry files: tiny scripts that skip what pip's console scripts import."""

from __future__ import annotations

import os

from tools.steps import write_file

# Name of the program: module with a main().
PROGRAMS = {
    "containerd-shim-kata-v2": "kata.host.factory.launcher",
    "kata-factory": "kata.host.factory.main",
    "kata-image": "kata.image.main",
    "kata-monitor": "kata.monitor.main",
    "kata-runtime": "kata.cli.main",
}

LAUNCHER = """\
#!/usr/bin/python3 -IS
import sys
sys.path += {paths!r}
from {module} import main
sys.exit(main())
"""


def write_launchers(folder: str, paths: list[str]) -> list[str]:
    """Write the programs that exist in the code on ``paths``; return their files."""
    written = []
    for name, module in PROGRAMS.items():
        relative = module.replace(".", "/") + ".py"
        if any(os.path.exists(os.path.join(path, relative)) for path in paths):
            place = os.path.join(folder, name)
            write_file(place, LAUNCHER.format(paths=paths, module=module), 0o755)
            written.append(place)
    return written
