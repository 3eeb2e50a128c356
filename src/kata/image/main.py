"""``kata-image``: build the guest image, show what it holds."""

from __future__ import annotations

import argparse
import os
import sys
import time

from kata.base.errors import KataError
from kata.image import cpio, store
from kata.image.build import COMPRESSIONS, BuildRequest, build_image

DEFAULT_OUTPUT = "/usr/share/kata-containers"
SYSTEM_CACHE = "/var/cache/kata-image"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "build":
            return _build(options)
        return _show(options)
    except KataError as error:
        print(f"kata-image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kata-image", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build kernel and initrd from Debian packages")
    build.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (%(default)s)")
    build.add_argument("--compress", choices=sorted(COMPRESSIONS), default="none")
    build.add_argument("--suite", default="", help="Debian suite, when not the host's own")
    build.add_argument("--source", default="", help="folder with another kata package to ship")
    build.add_argument("--cache", default=_default_cache(), help="packages (%(default)s)")
    build.add_argument("--force", action="store_true", help="build even when up to date")
    show = verbs.add_parser("show", help="print the current version's manifest and files")
    show.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (%(default)s)")
    show.add_argument("--files", action="store_true", help="list the files of the initrd")
    return parser


def _build(options: argparse.Namespace) -> int:
    start = time.monotonic()
    request = BuildRequest(
        os.path.abspath(options.output),
        os.path.abspath(options.cache),
        options.compress,
        options.suite,
        os.path.abspath(options.source) if options.source else "",
        options.force,
    )
    build_image(request, lambda text: print(f"kata-image: {text}", flush=True))
    print(f"kata-image: done in {time.monotonic() - start:.1f} s")
    return 0


def _show(options: argparse.Namespace) -> int:
    path = os.path.join(options.output, store.MANIFEST)
    try:
        with open(path, encoding="utf-8") as file:
            sys.stdout.write(file.read())
        if options.files:
            with open(os.path.join(options.output, store.INITRD), "rb") as file:
                _print_files(file.read())
    except OSError as error:
        raise KataError(f"read guest image in {options.output}: {error.strerror}") from error
    return 0


def _print_files(archive: bytes) -> None:
    for entry in cpio.parse_archive(archive):
        print(f"{entry.mode:06o} {len(entry.data):9} {entry.name}")


def _default_cache() -> str:
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "kata-image")


if __name__ == "__main__":
    sys.exit(main())
