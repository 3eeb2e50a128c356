"""The packet filter's rules of the pod's network, which is the machine's: iptables of the image.

The programs are those that work by nft, as Debian's default is.  Rules that a container made with
the older kind of iptables are not theirs to see.
"""

from __future__ import annotations

import os

from kata.base.errors import Code, KataError
from kata.guest.spawn import run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kata.guest.reaper import Reaper

# Ten thousand rules, for which iptables takes 25 MB.
MAX_BYTES = 1 << 20
# The largest set takes 5 s in an emulated guest; the rest is for a host that is busy.
_TIMEOUT_S = 25.0
_REASON_MAX_CHARS = 1000
_SIGNALLED = 128


def get_rules(reaper: Reaper, *, is_ipv6: bool) -> bytes:
    """Return the rules of all tables as iptables-save prints them.  Raises KataError."""
    rules = _save(reaper, is_ipv6=is_ipv6)
    _check_size("get", rules)
    return rules


def set_rules(reaper: Reaper, rules: bytes, *, is_ipv6: bool) -> bytes:
    """Replace the tables that ``rules`` names, and return what iptables-restore prints.

    Raises INVALID_ARGUMENT with the program's words for rules that it or the kernel refuses; then
    all tables are as they were.
    """
    _check_size("set", rules)
    # The kernel changes a table as a whole, but one after the other.
    if len(_tables(rules)) < 2:
        return _restore(reaper, rules, is_ipv6=is_ipv6)
    before = _save(reaper, "--counters", is_ipv6=is_ipv6)
    try:
        return _restore(reaper, rules, is_ipv6=is_ipv6)
    except KataError:
        made = set(_tables(_save(reaper, is_ipv6=is_ipv6))) - set(_tables(before))
        # A table without anything in it is removed.
        removals = b"".join(b"*%s\nCOMMIT\n" % table for table in made)
        _restore(reaper, before + removals, "--counters", is_ipv6=is_ipv6)
        raise


def _save(reaper: Reaper, *options: str, is_ipv6: bool) -> bytes:
    argv = [_program("save", is_ipv6=is_ipv6), *options]
    return _run(reaper, argv, b"", Code.INTERNAL)


def _restore(reaper: Reaper, rules: bytes, *options: str, is_ipv6: bool) -> bytes:
    argv = [_program("restore", is_ipv6=is_ipv6), *options]
    return _run(reaper, argv, rules, Code.INVALID_ARGUMENT)


def _program(verb: str, *, is_ipv6: bool) -> str:
    return f"ip6tables-{verb}" if is_ipv6 else f"iptables-{verb}"


def _tables(rules: bytes) -> list[bytes]:
    return [line[1:].strip() for line in rules.splitlines() if line.startswith(b"*")]


def _check_size(verb: str, rules: bytes) -> None:
    if len(rules) > MAX_BYTES:
        raise KataError(
            f"{verb} iptables: {len(rules)} bytes exceed the limit of {MAX_BYTES}",
            Code.RESOURCE_EXHAUSTED,
        )


def _run(reaper: Reaper, argv: list[str], data: bytes, code: int) -> bytes:
    """Run a program on ``data`` and return its output.  Raises KataError, ``code`` if it fails."""
    # Files, so that nobody has to read and write at the same time.
    stdio = [os.memfd_create(argv[0]) for _ in range(3)]
    try:
        _write(stdio[0], data)
        status = run(reaper, argv, stdio, _TIMEOUT_S)
        output, errors = _read(stdio[1]), _read(stdio[2])
    except FileNotFoundError as error:
        raise KataError(
            f"run {argv[0]}: the guest image lacks it", Code.FAILED_PRECONDITION
        ) from error
    finally:
        for fd in stdio:
            os.close(fd)
    if status:
        raise KataError(
            f"run {argv[0]}: {_describe(errors) or f'exit status {status}'}",
            code if status < _SIGNALLED else Code.INTERNAL,
        )
    return output


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)


def _read(fd: int) -> bytes:
    return os.pread(fd, os.fstat(fd).st_size, 0)


def _describe(errors: bytes) -> str:
    """Return a program's complaint on one line, without its advice to ask for help."""
    lines = (line.strip() for line in errors.decode("utf-8", "replace").splitlines())
    kept = [line for line in lines if line and not line.startswith("Try `")]
    return "; ".join(kept).replace(":; ", ": ")[:_REASON_MAX_CHARS]
