"""Which devices a cgroup's processes may use: rules, as a program for the kernel.

Version 2 of cgroups has no files for it but asks a BPF program at each access (bpf(2), linux/bpf.h:
BPF_PROG_TYPE_CGROUP_DEVICE).  The specification's last matching rule decides, so the program tests
them from the last to the first.
"""

from __future__ import annotations

import ctypes
import os
import struct

from kata.base import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

# linux/bpf.h
_PROG_LOAD = 5
_PROG_ATTACH = 8
_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_ALLOW_MULTI = 2
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_ALL = 7
_EVERYTHING = (None, None, None, _ALL)
# What every container may do, before its own rules: make any node, use the default devices and its
# terminals.  The list is runc's and crun's.
_DEFAULTS: tuple[dict[str, Any], ...] = (
    {"allow": True, "type": "c", "access": "m"},
    {"allow": True, "type": "b", "access": "m"},
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))
    ),
)

# Instructions: code, and of one byte the destination (low half) and source register (high half).
_LOAD = 0x61  # a 32-bit word from memory
_AND = 0x54  # 32-bit, with an immediate
_SHIFT_RIGHT = 0x74
_MOVE = 0xBC  # 32-bit, from a register
_SET = 0xB4  # 32-bit, to an immediate
_UNLESS = 0x56  # jump when a 32-bit register is not the immediate
_UNLESS_SAME = 0x5E  # jump when two 32-bit registers differ
_EXIT = 0x95
_RESULT, _CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR, _SCRATCH = range(7)


class _Program(ctypes.Structure):
    _fields_ = (
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
    )


class _Attachment(ctypes.Structure):
    _fields_ = (
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
    )


def restrict(folder: str, rules: list[dict[str, Any]]) -> None:
    """Let a cgroup's processes use the devices of these rules only.  Raises OSError."""
    if rules and is_open(rules[-1]):
        return
    code = assemble([*rules, *_DEFAULTS])
    words = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    program = _Program(
        prog_type=_TYPE_CGROUP_DEVICE,
        insn_cnt=len(code) // 8,
        insns=ctypes.addressof(words),
        license=ctypes.addressof(licence),
    )
    program_fd = syscalls.bpf(_PROG_LOAD, program)
    try:
        folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attachment = _Attachment(folder_fd, program_fd, _ATTACH_CGROUP_DEVICE, _ALLOW_MULTI)
            syscalls.bpf(_PROG_ATTACH, attachment)
        finally:
            os.close(folder_fd)
    finally:
        os.close(program_fd)


def is_open(rule: dict[str, Any]) -> bool:
    """Return whether a rule allows everything."""
    return bool(rule.get("allow")) and _parse(rule) == _EVERYTHING


def assemble(rules: Iterable[dict[str, Any]]) -> bytes:
    """Return the program: 1 for an access that the last matching rule allows, else 0.

    A rule that allows matches when it names all that is wanted, one that denies when it names any.
    """
    # struct bpf_cgroup_dev_ctx: access and kind in one word, major, minor.
    code = [
        _instruction(_LOAD, _KIND, _CONTEXT, 0),
        _instruction(_MOVE, _WANTED, _KIND),
        _instruction(_AND, _KIND, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, immediate=16),
        _instruction(_LOAD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(list(rules)):
        code += _test(rule)
        if _parse(rule) == _EVERYTHING:
            break  # the kernel refuses what is never reached
    else:
        code += _answer(0)
    return b"".join(code)


def _test(rule: dict[str, Any]) -> list[bytes]:
    kind, major, minor, access = _parse(rule)
    allows = bool(rule.get("allow"))
    # Each is followed by what is to be skipped when it does not hold: filled in below.
    tests: list[tuple[list[bytes], tuple[int, int, int, int]]] = []
    for register, value in ((_KIND, kind), (_MAJOR, major), (_MINOR, minor)):
        if value is not None:
            tests.append(([], (_UNLESS, register, 0, value)))
    if access != _ALL:
        masked = [
            _instruction(_MOVE, _SCRATCH, _WANTED),
            _instruction(_AND, _SCRATCH, immediate=access),
        ]
        if allows:
            tests.append((masked, (_UNLESS_SAME, _SCRATCH, _WANTED, 0)))
        else:
            # Nothing in common: jump over the next jump's way out.
            tests.append((masked, (_UNLESS, _SCRATCH, 0, 0)))
    return _lay_out(tests, _answer(1 if allows else 0), inverted=access != _ALL and not allows)


def _lay_out(
    tests: list[tuple[list[bytes], tuple[int, int, int, int]]], end: list[bytes], *, inverted: bool
) -> list[bytes]:
    """Put tests before the end; one that fails jumps behind it.

    ``inverted``: the last test holds when its jump is taken, which then goes to the end.
    """
    code = list(end)
    behind = len(end)
    for index, (before, (operation, register, source, value)) in enumerate(reversed(tests)):
        if inverted and index == 0:
            # Taken: over the jump that follows.
            jump = [
                _instruction(operation, register, source, 1, value),
                _instruction(0x05, offset=behind),  # jump always
            ]
        else:
            jump = [_instruction(operation, register, source, behind, value)]
        code = [*before, *jump, *code]
        behind = len(code)
    return code


def _answer(value: int) -> list[bytes]:
    return [_instruction(_SET, _RESULT, immediate=value), _instruction(_EXIT)]


def _parse(rule: dict[str, Any]) -> tuple[int | None, int | None, int | None, int]:
    access = sum(_ACCESS[letter] for letter in set(rule.get("access") or "rwm"))
    kind = _KINDS.get(str(rule.get("type") or "a"))
    return kind, _number(rule.get("major")), _number(rule.get("minor")), access


def _number(value: Any) -> int | None:
    """Return a number of a device; None, and what is below 0, stand for all."""
    return None if value is None or int(value) < 0 else int(value)


def _instruction(
    code: int, destination: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | destination, offset, immediate)
