"""Catch connections to any loopback port of a network namespace with one listening socket.

A BPF program of type sk_lookup (Documentation/bpf/prog_sk_lookup.rst in the kernel's sources) picks
the socket for a connection that comes in.  Unlike a redirection by the packet filter it needs no
program on the host, leaves no rules behind, and ends with the descriptors that hold it.
"""

from __future__ import annotations

import ctypes
import os
import struct

from kata.base.errors import Code, KataError

# linux/bpf.h
_SYS_BPF = 321  # x86_64
_BPF_MAP_CREATE = 0
_BPF_MAP_UPDATE_ELEM = 2
_BPF_PROG_LOAD = 5
_BPF_LINK_CREATE = 28
_BPF_MAP_TYPE_SOCKMAP = 15
_BPF_PROG_TYPE_SK_LOOKUP = 30
_BPF_SK_LOOKUP = 36
_ATTR_BYTES = 128
# Offsets in struct bpf_sk_lookup.
_FAMILY, _PROTOCOL, _LOCAL_IP4, _LOCAL_IP6 = 8, 12, 40, 44
_AF_INET, _AF_INET6, _IPPROTO_TCP = 2, 10, 6
# Opcodes (Documentation/bpf/standardization/instruction-set.rst).
_LOAD_WORD, _STORE_WORD, _LOAD_MAP, _MOVE, _SET = 0x61, 0x62, 0x18, 0xBF, 0xB7
_ADD, _AND, _CALL, _EXIT = 0x07, 0x57, 0x85, 0x95
_GOTO, _IF_EQUAL, _IF_OTHER = 0x05, 0x15, 0x55
_MAP_LOOKUP, _SK_RELEASE, _SK_ASSIGN = 1, 86, 124
_PSEUDO_MAP_FD = 1

_libc = ctypes.CDLL(None, use_errno=True)

# An instruction: opcode, target register, source register, offset or label, number.
_Step = tuple[int, int, int, "int | str", int]


def catch_loopback(listener_fd: int, netns_fd: int) -> int:
    """Send TCP connections to 127.0.0.0/8 and ::1 to a listener; borrows both descriptors.

    Returns a descriptor owned by the caller; closing it ends the effect.  Raises UNIMPLEMENTED
    where the kernel lacks it (before 5.9, or no right to load programs).
    """
    held: list[int] = []
    try:
        held.append(_call(_BPF_MAP_CREATE, struct.pack("=5I", _BPF_MAP_TYPE_SOCKMAP, 4, 8, 1, 0)))
        _store(held[0], listener_fd)
        held.append(_load(_assemble(held[0])))
        link = struct.pack("=4I", held[1], netns_fd, _BPF_SK_LOOKUP, 0)
        return _call(_BPF_LINK_CREATE, link)
    except OSError as error:
        raise KataError(
            f"catch loopback connections: bpf: {error.strerror}", Code.UNIMPLEMENTED
        ) from error
    finally:
        for fd in held:  # the link holds both
            os.close(fd)


def _steps(map_fd: int) -> list[_Step | str]:
    return [
        (_MOVE, 6, 1, 0, 0),
        (_LOAD_WORD, 2, 6, _PROTOCOL, 0),
        (_IF_OTHER, 2, 0, "pass", _IPPROTO_TCP),
        (_LOAD_WORD, 2, 6, _FAMILY, 0),
        (_IF_EQUAL, 2, 0, "ipv6", _AF_INET6),
        (_IF_OTHER, 2, 0, "pass", _AF_INET),
        # In network order, so the first byte of the address is the lowest.
        (_LOAD_WORD, 2, 6, _LOCAL_IP4, 0),
        (_AND, 2, 0, 0, 0xFF),
        (_IF_OTHER, 2, 0, "pass", 127),
        (_GOTO, 0, 0, "take", 0),
        "ipv6",
        *[
            step
            for word in range(4)
            for step in (
                (_LOAD_WORD, 2, 6, _LOCAL_IP6 + 4 * word, 0),
                (_IF_OTHER, 2, 0, "pass", 1 << 24 if word == 3 else 0),
            )
        ],
        "take",
        (_STORE_WORD, 10, 0, -4, 0),
        (_LOAD_MAP, 1, _PSEUDO_MAP_FD, 0, map_fd),
        (0, 0, 0, 0, 0),
        (_MOVE, 2, 10, 0, 0),
        (_ADD, 2, 0, 0, -4),
        (_CALL, 0, 0, 0, _MAP_LOOKUP),
        (_IF_EQUAL, 0, 0, "pass", 0),
        (_MOVE, 7, 0, 0, 0),
        (_MOVE, 1, 6, 0, 0),
        (_MOVE, 2, 7, 0, 0),
        (_SET, 3, 0, 0, 0),
        (_CALL, 0, 0, 0, _SK_ASSIGN),
        (_MOVE, 1, 7, 0, 0),
        (_CALL, 0, 0, 0, _SK_RELEASE),
        "pass",
        (_SET, 0, 0, 0, 1),  # SK_PASS
        (_EXIT, 0, 0, 0, 0),
    ]


def _assemble(map_fd: int) -> bytes:
    labels: dict[str, int] = {}
    steps: list[_Step] = []
    for step in _steps(map_fd):
        if isinstance(step, str):
            labels[step] = len(steps)
        else:
            steps.append(step)
    code = b""
    for index, (opcode, target, source, offset, number) in enumerate(steps):
        jump = labels[offset] - index - 1 if isinstance(offset, str) else offset
        code += struct.pack("=BBhi", opcode, source << 4 | target, jump, number)
    return code


def _load(code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")  # sk_assign is for programs under the GPL
    attributes = struct.pack(
        "=IIQQIIQII16sII",
        _BPF_PROG_TYPE_SK_LOOKUP,
        len(code) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(licence),
        0,
        0,
        0,
        0,
        0,
        b"kata_loopback",
        0,
        _BPF_SK_LOOKUP,
    )
    return _call(_BPF_PROG_LOAD, attributes)


def _store(map_fd: int, socket_fd: int) -> None:
    key = ctypes.create_string_buffer(struct.pack("=I", 0), 4)
    value = ctypes.create_string_buffer(struct.pack("=Q", socket_fd), 8)
    addresses = ctypes.addressof(key), ctypes.addressof(value)
    _call(_BPF_MAP_UPDATE_ELEM, struct.pack("=IIQQQ", map_fd, 0, *addresses, 0))


def _call(command: int, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes.ljust(_ATTR_BYTES, b"\0"), _ATTR_BYTES)
    result: int = _libc.syscall(_SYS_BPF, command, buffer, _ATTR_BYTES)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
