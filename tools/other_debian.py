"""Programs of other suites of Debian beside the system's own.

For the Rust virtiofsd on Debian 12 (``tools.virtiofsd``), and for tests against other versions.
Packages are downloaded with package lists of their own and unpacked into a folder, for tests one
below ``build/debian``; nothing is installed, and the machine's own lists stay as they are.  Archive
and key are those that the machine's apt has for Debian.  A version stays until the archive drops it
or the folder is removed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tools.steps import BUILD, StepError, content_key, is_done, mark_done, run, say, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

CACHE = "/var/cache/kata-image/suites"
UNPACKED = os.path.join(BUILD, "debian")
# An archive that does not answer must not hold up the tests.
TIMEOUT_S = 300
# The program loader's place is fixed by the processor's ABI.
LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
_WRAPPER = """\
#!/bin/bash
export QEMU_MODULE_DIR={modules}
exec -a {name} {command} "$@"
"""


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite with its own state of apt in the cache."""

    name: str

    @property
    def folder(self) -> str:
        """Where lists and downloads are kept."""
        return os.path.join(CACHE, self.name)

    def options(self) -> list[str]:
        """Return the options that make apt see this suite and nothing else."""
        settings = {
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "root",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Dir::Cache": self.folder,
            "Dir::Etc::sourcelist": f"{self.folder}/sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::Etc::preferencesparts": "-",
            "Dir::State::lists": f"{self.folder}/lists",
            # As if nothing were installed, so that dependencies are complete.
            "Dir::State::status": "/dev/null",
        }
        return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]

    def update(self) -> None:
        """Fetch the package lists."""
        say(f"reading the package lists of Debian {self.name}")
        for name in ("lists/partial", "archives/partial"):
            os.makedirs(os.path.join(self.folder, name), exist_ok=True)
        with open(f"{self.folder}/sources.list", "w", encoding="ascii") as file:
            file.write(f"deb {find_archive()} {self.name} main\n")
        run(["timeout", str(TIMEOUT_S), "apt-get", "-qq", *self.options(), "update"])

    def list_closure(self, names: Sequence[str]) -> list[str]:
        """Return the packages with all they depend on."""
        self._ensure_lists()
        text = _ask(["apt-get", *self.options(), "--simulate", "install", *names])
        return sorted(set(re.findall(r"^Inst (\S+)", text, re.MULTILINE)))

    def key(self) -> str:
        """Return a hash of what the lists are; the same lists give the same packages."""
        self._ensure_lists()
        folder = f"{self.folder}/lists"
        releases = [name for name in os.listdir(folder) if name.endswith("Release")]
        return content_key([f"{folder}/{name}" for name in releases])

    def download(self, names: Sequence[str]) -> list[str]:
        """Return the files of the packages, downloaded where they are not in the cache."""
        self._ensure_lists()
        try:
            return self._download(names)
        except StepError:
            self.update()  # the archive has a newer version and dropped the one in the lists
            return self._download(names)

    def _ensure_lists(self) -> None:
        if not os.path.exists(f"{self.folder}/sources.list"):
            self.update()

    def _download(self, names: Sequence[str]) -> list[str]:
        folder = f"{self.folder}/archives"
        command = ["apt-get", "-qq", *self.options(), "download"]
        # URI, file name, size and hash, a package a line.
        wanted = [line.split()[1] for line in _ask([*command, "--print-uris", *names]).splitlines()]
        if any(not os.path.exists(f"{folder}/{name}") for name in wanted):
            say(f"downloading from Debian {self.name}: {' '.join(names)[:70]}")
            run(["timeout", str(TIMEOUT_S), *command, *names], cwd=folder)
        return [f"{folder}/{name}" for name in wanted]


def unpack(suite: str, names: Sequence[str], *, closure: bool = False) -> str:
    """Return a folder with the unpacked packages; ``closure``: with all they depend on."""
    source = Suite(suite)
    folder = os.path.join(UNPACKED, f"{suite}-{names[0]}")
    stamp = f"{folder}/.done"
    words = (*names, str(closure))
    if not is_done(stamp, content_key([], source.key(), *words)):
        files = source.download(source.list_closure(names) if closure else names)
        shutil.rmtree(folder, ignore_errors=True)
        unpack_files(files, folder)
        mark_done(stamp, content_key([], source.key(), *words))  # the lists may be newer by now
    return folder


def write_wrapper(folder: str, program: str, arguments: Sequence[str] = ()) -> str:
    """Return a script that starts a program of ``folder``, with ``arguments`` before all others.

    Where the folder has a C library, the program gets that one with its loader, because a program
    of a later suite needs a newer one than the system's.  The process has the program's name.
    """
    name = os.path.basename(program)
    path = os.path.join(folder, "wrappers", name)
    loader = os.path.join(folder, LOADER)
    libraries = os.path.join(folder, LIBRARIES)
    command = [os.path.join(folder, program), *arguments]
    if os.path.exists(loader):
        command = [loader, "--library-path", libraries, *command]
    text = _WRAPPER.format(name=name, modules=f"{libraries}/qemu", command=shlex.join(command))
    write_file(path, text, 0o755)
    return path


def find_archive() -> str:
    """Return the address of Debian's archive as the machine's apt has it."""
    text = _ask(["apt-get", "indextargets", "--format", "$(ORIGIN) $(LABEL) $(REPO_URI)"])
    for line in text.splitlines():
        origin, _, rest = line.partition(" ")
        label, _, uri = rest.rpartition(" ")
        if (origin, label) == ("Debian", "Debian"):
            return uri
    raise StepError("find Debian's archive: apt has no package lists of it")


def unpack_files(files: Sequence[str], folder: str) -> None:
    """Unpack packages into a folder that does not exist yet."""
    # Packages of some suites have files in /lib, others in /usr/lib: one tree for both.
    for name in ("bin", "sbin", "lib", "lib64"):
        os.makedirs(f"{folder}/usr/{name}")
        os.symlink(f"usr/{name}", f"{folder}/{name}")
    for file in files:
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", file], stdout=subprocess.PIPE) as deb:
            extract = ["tar", "-x", "--keep-directory-symlink", "-C", folder]
            tar = subprocess.run(extract, stdin=deb.stdout, check=False)
        if tar.returncode or deb.returncode:
            raise StepError(f"unpack {file}: tar {tar.returncode}, dpkg-deb {deb.returncode}")


def _ask(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise StepError(f"{' '.join(command[:2])}: {done.stderr.strip()[-300:]}")
    return done.stdout
