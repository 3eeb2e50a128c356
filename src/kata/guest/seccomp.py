"""A container's system call filter: the specification's profile, compiled by libseccomp."""

from __future__ import annotations

import ctypes
import errno
import os

from kata.base.errors import Code, KataError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

_LIBRARY = "libseccomp.so.2"
# seccomp.h
_ACTIONS = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_NUMBER = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_OPERATORS = {
    "SCMP_CMP_NE": 1,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_MASKED_EQ": 7,
}
_UNKNOWN_CALL = -1
_MAX_ARGUMENTS = 6
# What this leaves to crun: flags are for the call that loads a filter, a listener wants its socket.
CRUNS = ("flags", "listenerPath", "listenerMetadata")


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def find_obstacle(profile: dict[str, Any]) -> str:
    """Return what of a profile this cannot do; empty when it can do all."""
    found = [key for key in CRUNS if profile.get(key)]
    rules = profile.get("syscalls") or []
    actions = {profile.get("defaultAction"), *(rule.get("action") for rule in rules)}
    found += [f"seccomp {action}" for action in actions if action not in _ACTIONS]
    return ", ".join(found)


def compile_profile(profile: dict[str, Any]) -> int:
    """Return a descriptor of the program, which the caller owns.

    A system call that libseccomp does not know is left out, as engines expect.  Raises
    INVALID_ARGUMENT that names what is wrong, UNAVAILABLE without the library.
    """
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError as error:
        raise KataError(f"filter system calls: {error}", Code.UNAVAILABLE) from error
    library.seccomp_init.restype = ctypes.c_void_p
    default = _action(profile["defaultAction"], profile.get("defaultErrnoRet"))
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default)))
    if not context:
        raise KataError("filter system calls: no memory", Code.RESOURCE_EXHAUSTED)
    try:
        for name in profile.get("architectures") or []:
            _add_architecture(library, context, name)
        for rule in profile.get("syscalls") or []:
            action = _action(rule["action"], rule.get("errnoRet"))
            if action != default:
                _add_rule(library, context, action, rule)
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        _check(library.seccomp_export_bpf(context, fd), "export")
        return fd
    finally:
        library.seccomp_release(context)


def _action(name: str, number: int | None) -> int:
    action = _ACTIONS[name]
    if name in _WITH_NUMBER:
        action |= (errno.EPERM if number is None else number) & 0xFFFF
    return action


def _add_architecture(library: ctypes.CDLL, context: ctypes.c_void_p, name: str) -> None:
    plain = name.removeprefix("SCMP_ARCH_").lower()
    token = library.seccomp_arch_resolve_name(plain.encode()) & 0xFFFFFFFF
    if not token:
        raise KataError(f"filter system calls: no architecture {name}", Code.INVALID_ARGUMENT)
    result = library.seccomp_arch_add(context, ctypes.c_uint32(token))
    if result != -errno.EEXIST:
        _check(result, name)


def _add_rule(
    library: ctypes.CDLL, context: ctypes.c_void_p, action: int, rule: dict[str, Any]
) -> None:
    arguments = list(_comparisons(rule.get("args") or []))
    for name in rule["names"]:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == _UNKNOWN_CALL:
            continue
        for group in arguments or [()]:
            array = (_Comparison * len(group))(*group)
            result = library.seccomp_rule_add_array(
                context, ctypes.c_uint32(action), number, len(group), array
            )
            _check(result, name)


def _comparisons(arguments: list[dict[str, Any]]) -> Iterator[tuple[_Comparison, ...]]:
    """Yield what must hold together; two comparisons of one argument are alternatives."""
    found = []
    for argument in arguments:
        operator, index = argument.get("op"), argument.get("index", 0)
        if operator not in _OPERATORS or not 0 <= index < _MAX_ARGUMENTS:
            raise KataError(
                f"filter system calls: compare argument {index} by {operator}",
                Code.INVALID_ARGUMENT,
            )
        first, second = int(argument.get("value") or 0), int(argument.get("valueTwo") or 0)
        found.append(_Comparison(index, _OPERATORS[operator], first, second))
    if len({comparison.argument for comparison in found}) < len(found):
        yield from ((comparison,) for comparison in found)
    elif found:
        yield tuple(found)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise KataError(
            f"filter system calls: {what}: {os.strerror(-result)}", Code.INVALID_ARGUMENT
        )
