"""The Rust virtiofsd on this machine, also on Debian 12, whose own is the C one of QEMU 7.2.

Where Debian has a package of it, that is installed.  Debian 12 gets Debian 13's with the C library
and the few others that it is linked with, in a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from tools import debian
from tools.other_debian import LIBRARIES, LOADER, Suite, unpack_files
from tools.steps import StepError, content_key, is_done, mark_done, say, write_file

INSTALLED = "/opt/kata/virtiofsd"
PACKAGED = "/usr/libexec/virtiofsd"
_SUITE = "trixie"
_PACKAGES = ("virtiofsd", "libc6", "libcap-ng0", "libgcc-s1", "libseccomp2")
_NEEDED = ("libc.so.6", "libcap-ng.so.0", "libgcc_s.so.1", "libseccomp.so.2", "libm.so.6")
# The loader is a link named as the program, which is what the process is called then.
_LAUNCHER = """\
#!/bin/sh
exec {folder}/loader/virtiofsd --library-path {folder}/lib {folder}/lib/virtiofsd "$@"
"""


def ensure_virtiofsd(folder: str) -> None:
    """Have a Rust virtiofsd: the system's package, or ``folder/virtiofsd``."""
    if os.path.exists(PACKAGED):
        return
    if _is_packaged():
        debian.ensure_packages(["virtiofsd"])
        return
    source = Suite(_SUITE)
    stamp = f"{folder}/.done"
    if is_done(stamp, content_key([__file__], source.key(), folder)):
        return
    files = source.download(_PACKAGES)
    say(f"virtiofsd of Debian {_SUITE} in {folder}")
    scratch = f"{folder}.new"
    shutil.rmtree(scratch, ignore_errors=True)
    unpack_files(files, f"{scratch}/all")
    _lay_out(f"{scratch}/all", scratch, folder)
    shutil.rmtree(f"{scratch}/all")
    mark_done(f"{scratch}/.done", content_key([__file__], source.key(), folder))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(scratch, folder)
    _check(folder)


def _is_packaged() -> bool:
    done = subprocess.run(
        ["apt-cache", "show", "--no-all-versions", "virtiofsd"], capture_output=True, check=False
    )
    return b"Filename:" in done.stdout


def _lay_out(unpacked: str, scratch: str, folder: str) -> None:
    """Copy what the program needs to ``scratch``, for use in ``folder``."""
    os.makedirs(f"{scratch}/lib")
    os.mkdir(f"{scratch}/loader")
    for name in _NEEDED:
        shutil.copy(os.path.join(unpacked, LIBRARIES, name), f"{scratch}/lib/{name}")
    shutil.copy(os.path.join(unpacked, "usr/libexec/virtiofsd"), f"{scratch}/lib/virtiofsd")
    shutil.copy(os.path.join(unpacked, LOADER), f"{scratch}/loader/virtiofsd")
    write_file(f"{scratch}/virtiofsd", _LAUNCHER.format(folder=folder), 0o755)


def _check(folder: str) -> None:
    done = subprocess.run(
        [f"{folder}/virtiofsd", "--version"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        reason = done.stderr.strip()[-300:]
        shutil.rmtree(folder)
        raise StepError(f"run virtiofsd of Debian {_SUITE}: {reason}")
