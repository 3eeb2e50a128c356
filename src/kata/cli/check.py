"""kata-runtime check: what this host offers and lacks, with what mends it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass

from kata.base.descriptors import ENOUGH_FILES, find_file_limit
from kata.base.errors import KataError, describe_error
from kata.cli import host
from kata.config.load import load_config

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from kata.cli.settings import Settings
    from kata.cli.table import Options, Verb
    from kata.config.records import Config

OK, SLOWER, FAILED = "ok", "warning", "failed"
_OLDEST_QEMU = (7, 2)
_OLDEST_CONTAINERD = (1, 6)
_MANIFEST = "manifest.json"
_KERNEL_MANIFEST = "vmlinux-kata.json"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; ``remedy`` is a command, or what to do."""

    name: str
    result: str
    detail: str
    remedy: str = ""


def run(verb: Verb, settings: Settings, options: Options) -> int:
    """Print the findings; returns 1 if containers cannot run."""
    findings = find_all(settings.config_path)
    failed = any(finding.result == FAILED for finding in findings)
    if options.has("json"):
        report = {"usable": not failed, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(report, indent=2))
        return int(failed)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{finding.result:8} {finding.name:{width}}  {finding.detail}")
        if finding.remedy:
            print(f"{'':8} {'':{width}}  -> {finding.remedy}")
    return int(failed)


def find_all(config_path: str) -> list[Finding]:
    """Look at everything.  Without a configuration only at what does not depend on it."""
    findings = [_check_kvm(), *_check_devices(), _check_containerd()]
    try:
        config = load_config(config_path or None, os.environ)
    except KataError as error:
        remedy = "write one: docs/compatibility.md names the places and keys"
        return [Finding("configuration", FAILED, describe_error(error), remedy), *findings]
    detail = "; ".join([config.path, *config.warnings])
    result = SLOWER if config.warnings else OK
    findings.insert(0, Finding("configuration", result, detail))
    findings += [_check_qemu(config), _check_virtiofsd(config), _check_files()]
    findings.append(_check_memory(config))
    return findings + list(_check_guest(config))


def _check_kvm() -> Finding:
    reason = host.find_kvm_obstacle()
    if not reason:
        return Finding("KVM", OK, "it accelerates")
    return Finding(
        "KVM",
        SLOWER,
        f"{reason}; guests are emulated, about twenty times slower",
        "switch virtualization on in the firmware, or nested virtualization where this is a guest",
    )


def _check_devices() -> Iterator[Finding]:
    for name, path, without, module in (
        ("vsock", "/dev/vhost-vsock", "a serial port carries the agent's channel", "vhost_vsock"),
        ("vhost-net", "/dev/vhost-net", "QEMU itself moves the network's packets", "vhost_net"),
        ("tun", "/dev/net/tun", "pods with a network cannot start", "tun"),
    ):
        reason = host.find_device_obstacle(path)
        if not reason:
            yield Finding(name, OK, path)
        else:
            yield Finding(name, SLOWER, f"{reason}; {without}", f"modprobe {module}")


def _check_containerd() -> Finding:
    version = host.find_version(["containerd", "--version"])
    if not version:
        return Finding(
            "containerd", SLOWER, "it is not installed; Podman needs none", "apt install containerd"
        )
    return _check_version("containerd", version, _OLDEST_CONTAINERD, "apt install containerd")


def _check_qemu(config: Config) -> Finding:
    path = config.hypervisor.path
    version = host.find_version([path, "--version"])
    if not version:
        return Finding("QEMU", FAILED, f"{path} does not run", "apt install qemu-system-x86")
    return _check_version("QEMU", version, _OLDEST_QEMU, "apt install qemu-system-x86")


def _check_version(name: str, version: str, oldest: tuple[int, ...], remedy: str) -> Finding:
    if tuple(int(part) for part in version.split(".")) >= oldest:
        return Finding(name, OK, version)
    wanted = ".".join(str(part) for part in oldest)
    return Finding(name, FAILED, f"{version} is older than {wanted}", remedy)


def _check_virtiofsd(config: Config) -> Finding:
    path = config.hypervisor.virtio_fs_daemon
    version = host.find_version([path, "--version"])
    if version:
        return Finding("virtiofsd", OK, f"{version} ({path})")
    remedy = "apt install virtiofsd, or qemu-system-common in Debian 12"
    return Finding("virtiofsd", FAILED, f"{path} does not run", remedy)


def _check_files() -> Finding:
    limit = find_file_limit()
    detail = f"{limit} may be open"
    if limit >= ENOUGH_FILES:
        return Finding("files", OK, detail)
    return Finding(
        "files",
        SLOWER,
        f"{detail}, which a volume can have more of",
        f"LimitNOFILE={ENOUGH_FILES} in the unit of who starts containers, or ulimit -Hn",
    )


def _check_memory(config: Config) -> Finding:
    folder = config.hypervisor.file_mem_backend or "/dev/shm"
    wanted = config.hypervisor.default_memory_mib
    try:
        free = host.find_free_mib(folder)
    except OSError as error:
        return Finding("memory", FAILED, f"{folder}: {error.strerror}", f"mkdir {folder}")
    if free >= wanted:
        return Finding("memory", OK, f"{free} MiB free in {folder}, {wanted} for a small pod")
    remedy = f"mount -o remount,size={wanted * 4}M {folder}, or end what uses it"
    return Finding("memory", FAILED, f"{free} MiB free in {folder}, a pod has {wanted}", remedy)


def _check_guest(config: Config) -> Iterator[Finding]:
    hypervisor = config.hypervisor
    own = os.path.basename(os.path.realpath(hypervisor.kernel)).startswith("vmlinux-kata")
    yield _check_file(
        "guest kernel",
        hypervisor.kernel,
        _KERNEL_MANIFEST if own else _MANIFEST,
        f"kata-image {'kernel' if own else 'build'}",
    )
    for name, path in (("guest initrd", hypervisor.initrd), ("guest image", hypervisor.image)):
        if path:
            yield _check_file(name, path, _MANIFEST, "kata-image build")


def _check_file(name: str, path: str, manifest: str, remedy: str) -> Finding:
    """Compare a file with what its builder wrote down; one of another origin need only be there."""
    real = os.path.realpath(path)
    try:
        with open(real, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return Finding(name, FAILED, f"{path}: {error.strerror}", remedy)
    wanted = _read_digest(os.path.join(os.path.dirname(real), manifest), os.path.basename(real))
    if wanted and wanted != found:
        return Finding(name, FAILED, f"{real} is not as it was built", f"rm {real}; {remedy}")
    return Finding(name, OK, path if wanted else f"{path}, of unknown origin")


def _read_digest(manifest: str, name: str) -> str:
    try:
        with open(manifest) as file:
            return str(json.load(file)["files"][name]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
