"""Install the product on this machine, or take everything back (``--remove``).

What an installation puts where is written to a manifest first, so that an interrupted one can be
removed too; removing touches nothing else.  The user's own /etc/kata-containers stays.
"""

from __future__ import annotations

import os
import shutil
import sys

from tools import debian, launchers, venv, virtiofsd
from tools.demo import stop_demo
from tools.setup import SHIPPED_CONFIGURATION, build_image
from tools.steps import CHECKOUT, StepError, read_output, run, say, write_file

PREFIX = "/opt/kata"
VENV = f"{PREFIX}/venv"
MANIFEST = f"{PREFIX}/manifest"
PROGRAMS = "/usr/local/bin"
SHARE = "/usr/share/kata-containers"
CACHE = "/var/cache/kata-image"
# What the factory makes while the product is used.
TEMPLATES = "/run/vc/vm/template"
UNITS = "/usr/lib/systemd/system"
MANUAL = "/usr/local/share/man/man8/kata-runtime.8"
COMPLETION = "/usr/share/bash-completion/completions/kata-runtime"
SHIPPED_UNITS = os.path.join(CHECKOUT, "config", "systemd")
UNIT_NAMES = ("kata-factory.service", "kata-monitor.service")
CONFIGURATION = "/usr/share/defaults/kata-containers/configuration.toml"


def main(arguments: list[str]) -> int:
    """Install or remove; return the exit code."""
    try:
        if arguments == ["--remove"]:
            remove()
        elif not arguments:
            install()
        else:
            raise StepError(f"unknown arguments: {' '.join(arguments)}")
    except (StepError, OSError) as error:
        print(f"installation failed: {error}", file=sys.stderr)
        return 1
    return 0


def install() -> None:
    """Do all steps; each is skipped when it is done already."""
    debian.ensure_packages()
    write_manifest()
    venv.ensure_product(VENV)
    launchers.write_launchers(PROGRAMS, [venv.site_packages(VENV)])
    build_image(f"{PROGRAMS}/kata-image", SHARE)
    virtiofsd.ensure_virtiofsd(virtiofsd.INSTALLED)
    with open(SHIPPED_CONFIGURATION, encoding="utf-8") as file:
        write_file(CONFIGURATION, file.read())
    for name in UNIT_NAMES:
        with open(os.path.join(SHIPPED_UNITS, name), encoding="utf-8") as file:
            write_file(os.path.join(UNITS, name), file.read().replace("@PROGRAMS@", PROGRAMS))
    for path, words in ((MANUAL, ["manual"]), (COMPLETION, ["completion", "bash"])):
        write_file(path, read_output([f"{PROGRAMS}/kata-runtime", *words]))
    say("installed")


def write_manifest() -> None:
    """Name all that an installation makes; refuse to take over files of somebody else."""
    files = [
        *(f"{PROGRAMS}/{name}" for name in launchers.PROGRAMS),
        CONFIGURATION,
        *(f"{UNITS}/{name}" for name in UNIT_NAMES),
        MANUAL,
        COMPLETION,
    ]
    folders = [VENV, SHARE, CACHE, virtiofsd.INSTALLED]
    if not os.path.exists(MANIFEST):
        foreign = [path for path in (*files, SHARE) if os.path.lexists(path)]
        if foreign:
            raise StepError(f"{', '.join(foreign)} belong to another installation; remove it first")
    write_file(MANIFEST, "".join(f"{path}\n" for path in (*files, *folders)))


def remove() -> None:
    """Delete what the manifest names, and folders that are empty then."""
    stop_demo()
    if not os.path.exists(MANIFEST):
        say("nothing is installed")
        return
    with open(MANIFEST, encoding="utf-8") as file:
        paths = file.read().splitlines()
    if os.access(f"{PROGRAMS}/kata-factory", os.X_OK):
        run([f"{PROGRAMS}/kata-factory", "--end"])
    shutil.rmtree(TEMPLATES, ignore_errors=True)
    for path in paths:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.unlink(path)
    os.unlink(MANIFEST)
    for folder in (PREFIX, os.path.dirname(CONFIGURATION)):
        if os.path.isdir(folder) and not os.listdir(folder):
            os.rmdir(folder)
    say("removed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
