"""Make a container and become its first process.  Runs in a child of the forker's making only.

In a pid namespace of its own that is one process.  Where others are in the namespace already, two
do it, as for an exec (``entry``).  It joins and makes the other namespaces, makes the root, gets
ready up to the program, says so and waits for ``start``.
"""

from __future__ import annotations

import _socket
import os

from kata.base import fdpass, syscalls
from kata.guest import entry, files, loopback, rootfs, seccomp, sysctl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, NoReturn

READY = b"ready"
START = b"start"

# The specification's names.
_NAMESPACES = {
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}

# Members of the specification and of its linux object that crun obeys and this does not.
_CRUNS = ("solaris", "windows", "vm", "zos")
_CRUNS_LINUX = (
    "uidMappings", "gidMappings", "mountLabel", "personality", "timeOffsets", "netDevices",
)  # fmt: skip
_CRUNS_OPTIONS = ("tmpcopyup", "copy-symlink", "remount")
_CRUNS_ANNOTATION = "run.oci."


def find_obstacle(spec: dict[str, Any]) -> str:
    """Return what of a specification only crun can do; empty when this can do all."""
    linux = spec.get("linux") or {}
    found = [key for key in _CRUNS if spec.get(key)]
    found += [key for key in _CRUNS_LINUX if linux.get(key)]
    found += [key for key in entry.CRUNS if (spec.get("process") or {}).get(key)]
    if linux.get("seccomp"):
        found += filter(None, [seccomp.find_obstacle(linux["seccomp"])])
    found += [f"hook {key}" for key, hooks in (spec.get("hooks") or {}).items() if hooks]
    found += [key for key in spec.get("annotations") or {} if key.startswith(_CRUNS_ANNOTATION)]
    if "unbindable" in (linux.get("rootfsPropagation") or ""):
        found.append("rootfsPropagation")
    if not (spec.get("root") or {}).get("path"):
        found.append("no root")
    if not (spec.get("process") or {}).get("args"):
        found.append("no program")
    paths = {one["type"]: one.get("path") or "" for one in linux.get("namespaces") or []}
    found += [f"namespace {kind}" for kind in paths if kind not in _NAMESPACES]
    if paths.get("mount") != "" or paths.get("cgroup"):
        found.append("namespaces of mounts and cgroups that are not its own")
    for mount in spec.get("mounts") or []:
        options = [word.partition("=")[0] for word in mount.get("options") or []]
        found += [word for word in options if word in _CRUNS_OPTIONS or "idmap" in word]
        if mount.get("uidMappings") or mount["destination"].strip("/") == "":
            found.append(f"mount at {mount['destination']}")
        if mount.get("type") == "cgroup" and "cgroup" not in paths:
            found.append("cgroups without a namespace")
    return ", ".join(found)


def create(spec: dict[str, Any], name: str, cgroups: list[str], fds: Mapping[str, int]) -> NoReturn:
    """Become the first process of a container called ``name`` in ``cgroups``, which are folders.

    Ends this process in any case.  ``fds``: reply, and as far as there are any stdin, stdout,
    stderr, filter (a seccomp program).
    """

    def work(reply: _socket.socket) -> None:
        namespaces = spec["linux"].get("namespaces") or []
        alone = owns_pids(spec)
        if alone:  # and in it
            entry.tell_pid(reply)
            namespaces = [one for one in namespaces if one["type"] != "pid"]
        for folder in cgroups:
            files.control(f"{folder}/cgroup.procs", "0")
        entry.prepare_self(spec["process"])
        made = _enter_namespaces(namespaces)
        if not alone:
            entry.leave_to_child(reply)
        _prepare(spec, name, made)
        _become(spec, fds, reply)

    entry.run(fds, work)


def owns_pids(spec: dict[str, Any]) -> bool:
    """Return whether a container is to have a pid namespace that is made for it."""
    namespaces = spec["linux"].get("namespaces") or []
    return any(one["type"] == "pid" and not one.get("path") for one in namespaces)


def _enter_namespaces(namespaces: list[dict[str, Any]]) -> int:
    """Join and make what the specification says; returns the flags of those that were made."""
    made = 0
    for namespace in namespaces:
        flag, path = _NAMESPACES[namespace["type"]], namespace.get("path")
        if not path:
            made |= flag
            continue
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(fd, flag)
        finally:
            os.close(fd)
    if made:
        syscalls.unshare(made)
    return made


def _prepare(spec: dict[str, Any], name: str, made: int) -> None:
    """Make the container around this process.  Raises KataError or OSError."""
    linux = spec["linux"]
    kinds = [namespace["type"] for namespace in linux.get("namespaces") or []]
    os.umask(0)
    # Of a namespace that it shares, too: as crun.
    if "uts" in kinds:
        if spec.get("hostname"):
            _socket.sethostname(spec["hostname"])
        if spec.get("domainname"):
            syscalls.set_domain_name(spec["domainname"])
    if made & syscalls.CLONE_NEWNET:
        loopback.bring_up()
    sysctl.apply(linux.get("sysctl") or {}, kinds)
    mounts = spec.get("mounts") or []
    root = rootfs.Root(spec["root"]["path"], linux.get("rootfsPropagation") or "")
    root.mount_all(mounts)
    if not any(mount["destination"] == "/dev" and rootfs.is_bind(mount) for mount in mounts):
        root.make_devices(linux.get("devices") or [])
    root.protect(linux.get("readonlyPaths") or [])
    root.mask(linux.get("maskedPaths") or [])
    root.make_working_folder(spec["process"].get("cwd") or "/")
    root.enter()
    try:
        syscalls.join_session_keyring(name)
    except OSError:
        pass  # a kernel without keys, or with too many


def _become(spec: dict[str, Any], fds: Mapping[str, int], reply: _socket.socket) -> None:
    process = spec["process"]
    entry.open_streams(process, fds, reply, on_terminal=rootfs.bind_console)
    if spec["root"].get("readonly"):
        rootfs.protect_root()

    def wait() -> None:
        # Calls that no filter forbids; nothing to read means that it will not be started.
        os.write(reply.fileno(), fdpass.pack([READY]))
        if not os.read(reply.fileno(), len(START) + 4):
            os._exit(entry.ENDED)

    entry.become(process, fds, wait)
