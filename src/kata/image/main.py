"""``kata-image``: build the guest image, build a kernel for it, show what the image holds."""

from __future__ import annotations

import argparse
import os
import sys
import time

from kata.base.errors import KataError
from kata.image import cpio, store
from kata.image.build import COMPRESSIONS, BuildRequest, build_image
from kata.image.own_kernel import KernelRequest, build_kernel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_OUTPUT = "/usr/share/kata-containers"
SYSTEM_CACHE = "/var/cache/kata-image"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return VERBS[options.verb](options)
    except KataError as error:
        print(f"kata-image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="kata-image", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="build kernel and initrd from Debian packages")
    _add_common(build)
    build.add_argument("--compress", choices=sorted(COMPRESSIONS), default="none")
    build.add_argument("--source", default="", help="folder with another kata package to ship")
    kernel = verbs.add_parser("kernel", help="build a small kernel from Debian's source")
    _add_common(kernel)
    kernel.add_argument("--config", default="", help="file with options that win over our own")
    kernel.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at once (%(default)s)"
    )
    show = verbs.add_parser("show", help="print the current version's manifest and files")
    show.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (%(default)s)")
    show.add_argument("--files", action="store_true", help="list the files of the initrd")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", default=DEFAULT_OUTPUT, help="folder (%(default)s)")
    parser.add_argument("--suite", default="", help="Debian suite, when not the host's own")
    parser.add_argument("--cache", default=_default_cache(), help="packages (%(default)s)")
    parser.add_argument("--force", action="store_true", help="build even when up to date")


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
    build_image(request, _say)
    _say(f"done in {time.monotonic() - start:.1f} s")
    return 0


def _kernel(options: argparse.Namespace) -> int:
    start = time.monotonic()
    request = KernelRequest(
        os.path.abspath(options.output),
        os.path.abspath(options.cache),
        max(1, options.jobs),
        options.suite,
        options.config,
        options.force,
    )
    build_kernel(request, _say)
    path = os.path.join(request.output, store.OWN_KERNEL)
    _say(f"{path} done in {time.monotonic() - start:.1f} s")
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


def _say(text: str) -> None:
    print(f"kata-image: {text}", flush=True)


def _default_cache() -> str:
    if os.geteuid() == 0:
        return SYSTEM_CACHE
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "kata-image")


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "build": _build,
    "kernel": _kernel,
    "show": _show,
}

if __name__ == "__main__":
    sys.exit(main())
