"""Decide what a sandbox and its containers need.  Pure: records in, records out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kata.base import directvolume
from kata.base.errors import Code, KataError
from kata.config.records import Config
from kata.host.hypervisor.spec import SharedFolder, VmSpec
from kata.host.resource.sizing import Size
from kata.host.sandbox.devices import (
    DiskPlan,
    allow_all,
    find_block_node,
    is_privileged,
    plan_devices,
)
from kata.host.sandbox.mounts import FindVolume, MountPlan, plan_mounts
from kata.host.sandbox.sources import Probe, probe_source
from kata.host.share import layout
from kata.oci.bundle import check_sysctls
from kata.oci.convert import convert_spec
from kata.rpc.pb import agent_pb2

# Under emulation and on hardware alike: no probing of clocks and keyboards that a guest of ours
# does not have, nothing on the console but errors, an end instead of a hang after a panic.
_BASE_PARAMS = (
    "console=ttyS0",
    "quiet",
    "panic=-1",
    "reboot=t",
    "tsc=reliable",
    "no_timer_check",
    "noreplace-smp",
    "rcupdate.rcu_expedited=1",
    "cryptomgr.notests",
    "net.ifnames=0",
    "8250.nr_uarts=1",
    "random.trust_cpu=on",
    "cgroup_no_v1=all",
)
# The root in an image, which is the machine's only persistent memory.  Its device is found while
# the kernel goes on.  Where memory of it lies above 4 GiB the kernel would set 64 MiB aside for
# devices that cannot reach there, of which there are none.
_IMAGE_PARAMS = (
    "root=/dev/pmem0",
    "rootfstype=erofs",
    "rootflags=dax=always",
    "ro",
    "rootwait",
    "init=/init",
    "swiotlb=noforce",
)

# Namespaces that the machine itself is.
_MACHINE_NAMESPACES = frozenset({"network", "time"})


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """What a container needs: the spec for the guest and what its mounts are made of."""

    spec: dict[str, Any]
    # What the container's files are called in the shared folder; its mounts' begin with it.
    share_name: str
    mounts: MountPlan
    disks: tuple[DiskPlan, ...]
    # Whether it gets all devices of its machine.
    privileged: bool
    # Whether the container joins the pid namespace of the pod, or of another container.
    shared_pids: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestRules:
    """What a sandbox does to all its containers' specs."""

    seccomp: bool = True
    sysctls: Mapping[str, str] = field(default_factory=dict)
    probe: Probe = probe_source
    find_block_node: Callable[[int, int], str] = find_block_node
    find_volume: FindVolume = directvolume.find


def plan_vm(
    sandbox_id: str, config: Config, size: Size, accelerator: str, vsock_cid: int | None
) -> VmSpec:
    """Return the machine for a sandbox."""
    hypervisor = config.hypervisor
    params = [*_BASE_PARAMS, *(_IMAGE_PARAMS if hypervisor.image else ())]
    if hypervisor.enable_debug:
        params.remove("quiet")
    if config.agent.enable_debug:
        params.append("agent.log=debug")
    if vsock_cid is not None:
        params.append("agent.server_addr=vsock://-1:1024")
    params += hypervisor.kernel_params.split()
    return VmSpec(
        name=sandbox_id,
        binary=hypervisor.path,
        machine_type=hypervisor.machine_type,
        accelerator=accelerator,
        machine_options=hypervisor.machine_accelerators,
        cpu_features=hypervisor.cpu_features,
        vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        memory_folder=find_memory_folder(config),
        kernel=hypervisor.kernel,
        initrd=hypervisor.initrd,
        image=hypervisor.image,
        kernel_params=tuple(params),
        seccomp=hypervisor.seccompsandbox,
        entropy_source=hypervisor.entropy_source,
        root_ports=hypervisor.pcie_root_port,
        share=SharedFolder(layout.TAG, hypervisor.virtio_fs_queue_size),
        vsock_cid=vsock_cid,
        firmware=hypervisor.firmware,
    )


def describe_machine(spec: VmSpec) -> tuple[dict[str, object], tuple[str, ...]]:
    """Return what two machines have in common that can be copies of one template.

    The second part are the files that they are made of.
    """
    own = ("name", "share", "netns_path", "vsock_cid")
    alike = {key: value for key, value in asdict(spec).items() if key not in own}
    files = (spec.binary, spec.kernel, spec.initrd, spec.image, spec.firmware)
    return alike, tuple(path for path in files if path)


def describe_kind(config: Config, spec: VmSpec) -> dict[str, object]:
    """Return all that has to be the same for a machine that runs to do for another sandbox."""
    hypervisor = config.hypervisor
    share = {
        "virtio_fs_daemon": hypervisor.virtio_fs_daemon,
        "virtio_fs_cache": hypervisor.virtio_fs_cache,
        "virtio_fs_extra_args": list(hypervisor.virtio_fs_extra_args),
        "virtio_fs_queue_size": hypervisor.virtio_fs_queue_size,
    }
    return {"config": config.path, "machine": describe_machine(spec)[0], "share": share}


def plan_share_storage() -> agent_pb2.Storage:
    """Return how the guest mounts the shared folder."""
    return agent_pb2.Storage(
        driver="virtio-fs",
        source=layout.TAG,
        fstype="virtiofs",
        mount_point=layout.GUEST_FOLDER,
    )


def plan_container(
    container_id: str, spec: dict[str, Any], rules: GuestRules, share_name: str = ""
) -> ContainerPlan:
    """Rewrite a container's spec for the guest and list what of the host it wants to see.

    ``spec`` is not changed; ``share_name`` is its id where nothing is given.  Raises
    INVALID_ARGUMENT for a spec no container can be made of.
    """
    check_spec(spec)
    check_sysctls(spec)
    share_name = share_name or container_id
    guest = copy.deepcopy(spec)
    warnings: list[str] = []
    guest["root"] = {
        "path": f"{layout.GUEST_FOLDER}/{share_name}/rootfs",
        "readonly": bool(spec["root"].get("readonly", False)),
    }
    mounts = plan_mounts(share_name, guest, rules.probe, rules.find_volume)
    volumes = (
        DiskPlan(storage.mount_point, storage.source, "ro" in storage.options, source)
        for source, storage in mounts.direct
    )
    privileged = is_privileged(guest)
    disks = (*plan_devices(guest, rules.find_block_node), *volumes)
    if privileged:
        allow_all(guest)
    linux = guest.setdefault("linux", {})
    shared_pids = any(
        namespace.get("type") == "pid" and namespace.get("path")
        for namespace in linux.get("namespaces") or []
    )
    linux["namespaces"] = [
        {"type": namespace.get("type", "")}
        for namespace in linux.get("namespaces") or []
        if namespace.get("type") not in _MACHINE_NAMESPACES
    ]
    # Engines leave it out where the host has cgroups of version 1; the guest has the other.
    if not any(namespace["type"] == "cgroup" for namespace in linux["namespaces"]):
        linux["namespaces"].append({"type": "cgroup"})
    linux["cgroupsPath"] = _plan_cgroup(container_id, linux.get("cgroupsPath") or "")
    if linux.get("seccomp") and not rules.seccomp:
        linux.pop("seccomp")
        warnings.append("seccomp profile left out: disable_guest_seccomp is set")
    if rules.sysctls:
        linux["sysctl"] = {**rules.sysctls, **(linux.get("sysctl") or {})}
    _strip_resources(linux.get("resources") or {})
    linux.pop("mountLabel", None)
    linux.pop("intelRdt", None)
    strip_labels(guest["process"])
    warnings += _keep_hooks(guest)
    return ContainerPlan(guest, share_name, mounts, disks, privileged, shared_pids, tuple(warnings))


def _keep_hooks(guest: dict[str, Any]) -> list[str]:
    """Leave the hooks whose programs are the container's; returns what to warn of.

    The others' programs are the host's, for the engine to run.
    """
    hooks = {kind: hooks for kind, hooks in (guest.pop("hooks", None) or {}).items() if hooks}
    if "startContainer" in hooks:
        guest["hooks"] = {"startContainer": hooks.pop("startContainer")}
    if not hooks:
        return []
    return [f"hooks left out: {', '.join(hooks)}: their programs are not in the guest"]


def find_memory_folder(config: Config) -> str:
    """Return where the guest's memory is a file, so that virtiofsd sees it."""
    return config.hypervisor.file_mem_backend or "/dev/shm"


def strip_labels(process: dict[str, Any]) -> None:
    """Drop the labels of security modules that the guest's kernel does not load."""
    process.pop("apparmorProfile", None)
    process.pop("selinuxLabel", None)


def check_spec(spec: dict[str, Any]) -> None:
    """Raise INVALID_ARGUMENT for a spec that no container can be made of."""
    for key in ("process", "root"):
        if spec.get(key) is None:
            raise KataError(f"read config.json: it has no {key}", Code.INVALID_ARGUMENT)
    # Every value that the protocol knows has the right type after this.
    convert_spec(spec)
    if not spec["process"].get("args"):
        raise KataError("read config.json.process.args: it is empty", Code.INVALID_ARGUMENT)
    if not spec["root"].get("path"):
        raise KataError("read config.json.root.path: it is missing", Code.INVALID_ARGUMENT)
    for index, mount in enumerate(spec.get("mounts") or []):
        if not mount.get("destination"):
            raise KataError(
                f"read config.json.mounts[{index}]: it has no destination", Code.INVALID_ARGUMENT
            )


def _plan_cgroup(container_id: str, path: str) -> str:
    if not path:
        return f"/{container_id}"
    if path.count(":") == 2:  # systemd's slice:prefix:name
        unit, prefix, name = path.split(":")
        return f"/{unit}/{prefix}-{name}"
    return path if path.startswith("/") else f"/{path}"


def _strip_resources(resources: dict[str, Any]) -> None:
    # Processor and node numbers, devices of block I/O rules and network classes are the host's;
    # the weight of block I/O is among the containers of the guest.
    weight = (resources.pop("blockIO", None) or {}).get("weight")
    if weight:
        resources["blockIO"] = {"weight": weight}
    resources.pop("network", None)
    cpu = resources.get("cpu")
    if isinstance(cpu, dict):
        cpu.pop("cpus", None)
        cpu.pop("mems", None)
