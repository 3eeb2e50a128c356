"""Prepare a checkout for tests: packages, virtual environment, programs, guest image.

``build/bin`` gets programs that run the code of this checkout, ``build/share`` the guest image,
``build/configuration.toml`` a configuration that names them.  Nothing outside of the checkout is
touched but Debian's packages and the cache of downloads.
"""

from __future__ import annotations

import os
import sys

from tools import debian, launchers, venv, virtiofsd
from tools.steps import BUILD, CHECKOUT, StepError, run, say, write_file

VENV = os.path.join(CHECKOUT, ".venv")
SHARE = os.path.join(BUILD, "share")
VIRTIOFSD = os.path.join(BUILD, "virtiofsd")
CONFIGURATION = os.path.join(BUILD, "configuration.toml")
SHIPPED_CONFIGURATION = os.path.join(CHECKOUT, "config", "configuration.toml")
INSTALLED_SHARE = "/usr/share/kata-containers"


def main() -> int:
    """Do all steps; return the exit code."""
    try:
        debian.ensure_packages((*debian.PACKAGES, *debian.TEST_PACKAGES))
        venv.ensure_development(VENV)
        paths = [os.path.join(CHECKOUT, "src"), venv.site_packages(VENV)]
        launchers.write_launchers(os.path.join(BUILD, "bin"), paths)
        build_image(os.path.join(BUILD, "bin", "kata-image"), SHARE)
        virtiofsd.ensure_virtiofsd(VIRTIOFSD)
        write_configuration()
    except StepError as error:
        print(f"set-up failed: {error}", file=sys.stderr)
        return 1
    return 0


def build_image(program: str, output: str) -> None:
    """Build the guest image, which takes a second when nothing changed."""
    say(f"guest image in {output}")
    run([program, "build", "--output", output])


def write_configuration() -> None:
    """Write the shipped configuration with the checkout's paths."""
    with open(SHIPPED_CONFIGURATION, encoding="utf-8") as file:
        text = file.read().replace(INSTALLED_SHARE, SHARE)
    text = text.replace(virtiofsd.INSTALLED, VIRTIOFSD)
    if os.path.exists(VIRTIOFSD):
        named = f'virtio_fs_daemon = "{VIRTIOFSD}/virtiofsd"'
        text = text.replace('virtio_fs_daemon = ""', named)
    write_file(CONFIGURATION, text)


if __name__ == "__main__":
    sys.exit(main())
