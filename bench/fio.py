"""What is done to files in a guest: fio's jobs and a walk through a tree; and the image for it.

The same script runs in a container and in plain QEMU, by the image's own busybox.  It writes one
line for each thing measured.

fio opens with O_DIRECT: the guest's page cache would answer otherwise, and what is asked for is the
way to the host.  There virtiofsd leaves the flag out (its default), and QEMU's disks have
cache=writeback: the host's page cache answers in all cases, so the host's disk is not measured.
Besides a file is read and written once as programs mostly do, by the guest's page cache.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from tools.busybox_image import render_image
from tools.other_debian import unpack
from tools.steps import content_key

NAME = "localhost/fio:latest"
_CACHE = "/var/cache/kata-image/fio"
_PACKAGES = ("fio", "busybox-static")
_SUITE = "bookworm"
_LEFT_OUT = ("usr/share/doc", "usr/share/locale", "usr/share/man", "var")
_FOLDERS = ("data", "dev", "proc", "sys", "tmp")

_SIZE_MIB = 64
# A guest of 512 MiB keeps it all, and it takes more than a moment.
_CACHED_MIB = 192
DISK_MIB = max(_SIZE_MIB, _CACHED_MIB)
# Walked through, and copied: 700 files of Python's library.
_WALKED = "/usr"
_TREE = "/usr/lib/python3.11/[a-e]*"
SHELL = ("/bin/busybox", "sh", "-c")


@dataclass(frozen=True, slots=True)
class Job:
    """One run of fio: what it is called in figures, how it accesses, and in which blocks."""

    name: str
    access: str
    block: str
    is_direct: bool = True

    @property
    def unit(self) -> str:
        """Return what it is measured in: large blocks by throughput, small ones by their number."""
        return "IOPS" if self.block == "4k" else "MB/s"


DIRECT_JOBS = (
    Job("sequential read", "read", "128k"),
    Job("sequential write", "write", "128k"),
    Job("random read 4k", "randread", "4k"),
    Job("random write 4k", "randwrite", "4k"),
)
CACHED_JOBS = (
    Job("sequential read, cached by the guest", "read", "128k", is_direct=False),
    Job("sequential write, cached by the guest", "write", "128k", is_direct=False),
)
# Fields of fio's terse format, version 3, counted from 0: KB/s and IOPS (HOWTO, "Terse output").
_READ, _WRITE = (6, 7), (47, 48)


def render_script(file: str, jobs: tuple[Job, ...], runtime_s: int) -> str:
    """Return the shell script that runs fio's jobs on a file or disk.

    Those past the guest's cache take ``runtime_s`` each, the others one pass.
    """
    lines = []
    for job in jobs:
        words = [
            "fio", f"--name={job.access}", f"--rw={job.access}", f"--bs={job.block}",
            f"--filename={file}", "--ioengine=psync", "--output-format=terse", "--terse-version=3",
        ]  # fmt: skip
        if job.is_direct:
            words += [f"--size={_SIZE_MIB}M", "--direct=1", f"--runtime={runtime_s}"]
            words.append("--time_based")
        else:
            words += [f"--size={_CACHED_MIB}M", "--direct=0", "--end_fsync=1"]
        lines.append(" ".join(words))
    return "\n".join(lines)


def parse_output(text: str, *groups: tuple[Job, ...]) -> list[dict[str, float]]:
    """Return each job's MB/s or IOPS from what the scripts of these groups of jobs wrote."""
    found = [line.split(";") for line in text.splitlines() if line.startswith("3;fio-")]
    if len(found) != sum(len(jobs) for jobs in groups):
        raise RuntimeError(f"only {len(found)} jobs have ended: {text[-1000:]}")
    lines = iter(found)
    return [{job.name: _read_rate(job, next(lines)) for job in jobs} for jobs in groups]


def _read_rate(job: Job, fields: list[str]) -> float:
    speed, count = _READ if "read" in job.access else _WRITE
    if job.unit == "IOPS":
        return float(fields[count])
    return float(fields[speed]) * 1024 / 1e6


WALKS = ("walk", "walk again", "copy tree", "remove tree")


def render_walk(target: str) -> str:
    """Return the shell script that goes through many small files, and says when each step began."""
    stamp = 'read up rest </proc/uptime; echo; echo "at $up"'
    copied = f"{target}/tree"
    steps = (
        f"busybox find {_WALKED} -xdev -type f -size +0 >/dev/null",
        f"busybox find {_WALKED} -xdev -type f -size +0 >/dev/null",
        f"busybox mkdir {copied}; busybox cp -r {_TREE} {copied}",
        f"busybox rm -r {copied}",
    )
    return "\n".join([stamp, *(f"{step}\n{stamp}" for step in steps)])


def parse_walk(text: str) -> dict[str, float]:
    """Return each step's seconds."""
    stamps = [float(line[3:]) for line in text.splitlines() if line.startswith("at ")]
    if len(stamps) != len(WALKS) + 1:
        raise RuntimeError(f"the walk has not ended: {text[-1000:]}")
    return {
        name: after - before
        for name, before, after in zip(WALKS, stamps[:-1], stamps[1:], strict=True)
    }


def cached_image() -> str:
    """Return the path of the image's archive, made of Debian's packages when it is not there."""
    packages = unpack(_SUITE, _PACKAGES, closure=True)
    with open(f"{packages}/.done", "rb") as stamp:
        key = content_key([], stamp.read().decode(), *_LEFT_OUT, *_FOLDERS)
    path = os.path.join(_CACHE, f"{key[:16]}.tar")
    if not os.path.exists(path):
        os.makedirs(_CACHE, exist_ok=True)
        with open(f"{path}.new", "wb") as file:
            file.write(render_image(_render_layer(packages), NAME, {"Env": ["PATH=/usr/bin:/bin"]}))
        os.replace(f"{path}.new", path)
    return path


def _render_layer(packages: str) -> bytes:
    for name in _FOLDERS:
        os.makedirs(f"{packages}/{name}", exist_ok=True)
    command = ["tar", "-c", "-C", packages, "--exclude=./.done", "--exclude=./wrappers"]
    command += [f"--exclude=./{name}" for name in _LEFT_OUT]
    return subprocess.run([*command, "."], stdout=subprocess.PIPE, check=True).stdout
